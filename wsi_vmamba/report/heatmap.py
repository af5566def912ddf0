"""What a model looked at, laid over the slide: one colour per patch, exactly where the patch lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from wsi_vmamba.bags import Bag, grid_coords
from wsi_vmamba.errors import MissingDataError, UsageError
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.report.style import FigureFiles, house_style, new_figure, save
from wsi_vmamba.slide import Slide, open_slide, resolve_mpp
from wsi_vmamba.slide.location import may_exist
from wsi_vmamba.tissue.overview import Overview, read_overview

if TYPE_CHECKING:  # loads torch, which drawing needs nothing of
    from wsi_vmamba.training import Prediction

#: Long side of the picture of the slide, at least; at most twice that.
OVERVIEW_PX = 1200
_COLOURS = "plasma"
_OPACITY = 0.5
#: Weights of red, green and blue in the grey of the slide beneath the colours (Rec. 601).
_GREY = np.array([0.299, 0.587, 0.114])
_PALER = 0.75
#: Attention is very uneven; above this percentile of the patches the colour no longer changes.
_TOP_PERCENTILE = 99.0
_LISTED_PATCHES = 50

Floats = NDArray[np.float64]


class PlacedPatches(Protocol):
    """Patches of a slide: a `Bag`, or a prediction that was read again."""

    @property
    def slide_id(self) -> str:
        """Name of the slide."""

    @property
    def coords_l0(self) -> NDArray[np.int64]:
        """(N, 2), top-left corner (x, y) of each patch in level-0 pixels."""

    @property
    def patch_l0(self) -> float:
        """Side of a patch in level-0 pixels."""


@dataclass(frozen=True, kw_only=True)
class PatchValues:
    """One value per patch of a slide and how to show it.

    Attributes:
        values: shape (N,), finite.
        coords_l0: shape (N, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.
        patch_l0: side of a patch in level-0 pixels.
        low: value of the first colour.
        high: value of the last colour; larger values share it.
        quantity: what the value is, for the colour bar.
    """

    values: Floats
    coords_l0: NDArray[np.int64]
    patch_l0: float
    low: float
    high: float
    quantity: str

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.coords_l0.shape != (len(self.values), 2):
            raise UsageError(
                f"expected values (N,) and coords_l0 (N, 2), got {self.values.shape} and {self.coords_l0.shape}"
            )
        if not np.isfinite(self.values).all():
            raise UsageError(f"{int((~np.isfinite(self.values)).sum())} patch values are not finite")
        if not self.low < self.high:
            raise UsageError(f"the colour range must rise, got {self.low} to {self.high}")


def draw_prediction(record: SlideRecord, bag: Bag, prediction: Prediction, folder: Path) -> FigureFiles:
    """Draw what a slide classifier says of patches over the slide.

    That is the tumour probability of each patch where the model was supervised by outlines, else its attention as
    multiples of the slide's mean.

    Returns:
        ``<slide_id>.png`` and ``<slide_id>.json`` in ``folder``.

    Raises:
        UsageError: the model tells patches apart in no way.
        MissingDataError: the slide's file is not known or not there.
    """
    if prediction.patches is not None:
        patches = probability_patches(prediction.patches.astype(np.float64), bag)
    elif prediction.attention is not None:
        patches = attention_patches(prediction.attention, bag)
    else:
        raise UsageError(
            f"{record.slide_id}: this aggregator gives no attention, so there is no heatmap to draw; "
            "train with an attention aggregator such as abmil, or with outlines (--supervision)"
        )
    if record.path is None or not may_exist(record.path):
        raise MissingDataError(
            f"{record.slide_id}: a heatmap is drawn over the slide, but its file is "
            f"{'not named in the data set' if record.path is None else f'not at {record.path}'}"
        )
    known = "" if record.label is None else f", label {record.label}"
    title = f"{record.slide_id}: probability {prediction.probability:.3f}{known}"
    with open_slide(record.path, scene=bag.scene) as slide:
        return draw_patches(
            slide, patches, folder, mpp=_mpp_of(slide, bag, record), name=record.slide_id, title=title
        )


def probability_patches(probability: Floats, bag: PlacedPatches) -> PatchValues:
    """Tumour probability (N,) of each patch, on a scale fixed at 0–1."""
    return PatchValues(
        values=np.asarray(probability, dtype=np.float64), coords_l0=bag.coords_l0, patch_l0=bag.patch_l0,
        low=0.0, high=1.0, quantity="tumour probability",
    )  # fmt: skip


def attention_patches(attention: NDArray[np.float32], bag: PlacedPatches) -> PatchValues:
    """Attention (N,) as multiples of its mean over the slide: 1 is what every patch would get if none stood out."""
    weights = np.asarray(attention, dtype=np.float64)
    total = float(weights.sum())
    if total <= 0:
        raise UsageError(f"{bag.slide_id}: the attention sums to {total}; expected positive weights")
    relative = weights * (len(weights) / total)
    return PatchValues(
        values=relative, coords_l0=bag.coords_l0, patch_l0=bag.patch_l0, low=0.0,
        high=max(2.0, float(np.percentile(relative, _TOP_PERCENTILE))),
        quantity="attention / mean of the slide",
    )  # fmt: skip


def draw_patches(
    slide: Slide, patches: PatchValues, folder: Path, *, mpp: float, name: str, title: str = ""
) -> FigureFiles:
    """Draw the slide and, beside it, the slide under the colours of its patches, both with a scale bar.

    Args:
        slide: an open slide.
        patches: what to show.
        folder: made if need be.
        mpp: micrometres per level-0 pixel.
        name: stem of the two files.
        title: above the picture.
    """
    overview = read_picture(slide, mpp=mpp)
    heat = paint_patches(patches, shape_px=overview.pixels.shape[:2], downsample=overview.downsample)
    with house_style():
        figure = _draw(overview, heat, patches, title=title or name)
        return save(figure, _describe(patches, overview, mpp=mpp, name=name), folder=folder, name=name)


def read_picture(slide: Slide, *, mpp: float) -> Overview:
    """Read the whole slide small enough for a figure; ``mpp`` is that of level 0."""
    level0 = slide.levels[0]
    wanted = mpp * max(1.0, max(level0.width_px, level0.height_px) / OVERVIEW_PX)
    return read_overview(slide, mpp=mpp, overview_mpp=wanted)


def paint_patches(patches: PatchValues, *, shape_px: tuple[int, int], downsample: float) -> Floats:
    """Return the value under each pixel of a picture of the slide, NaN where there is no patch.

    A pixel takes the patch that its centre lies in, computed from level-0 coordinates for each pixel by
    itself, so that nothing drifts along the slide and patches whose side is no whole number of pixels are
    placed right.

    Args:
        patches: the values and where they lie.
        shape_px: height and width of the picture; its first pixel begins at level-0 (0, 0).
        downsample: level-0 pixels per pixel of the picture.
    """
    grid = value_grid(patches)
    row, column = (
        places_of(0, size, downsample=downsample, patch_l0=patches.patch_l0, n_places=n_places)
        for size, n_places in zip(shape_px, grid.shape, strict=True)
    )
    painted: Floats = grid[row[:, None], column[None, :]]
    return painted


def value_grid(patches: PatchValues) -> Floats:
    """The values on the patch grid, NaN where there is no patch: (rows + 1, columns + 1).

    The extra last row and column stay empty and stand for everything beyond the patches.
    """
    places = grid_coords(patches.coords_l0, patch_l0=patches.patch_l0, slide_id="heatmap")
    n_columns, n_rows = (int(n) + 1 for n in places.max(axis=0, initial=0))
    grid = np.full((n_rows + 1, n_columns + 1), np.nan)
    grid[places[:, 1], places[:, 0]] = patches.values
    return grid


def places_of(
    first_px: int, size_px: int, *, downsample: float, patch_l0: float, n_places: int
) -> NDArray[np.int64]:
    """Row, or column, of `value_grid` that the centre of each pixel of a picture of the slide lies in: (size_px,).

    Args:
        first_px: the first pixel; pixel 0 begins at level-0 0.
        size_px: how many.
        downsample: level-0 pixels per pixel of the picture.
        patch_l0: side of a patch in level-0 pixels.
        n_places: rows, or columns, of the grid; the last stands for everything beyond.
    """
    centre_l0 = (np.arange(first_px, first_px + size_px) + 0.5) * downsample
    places: NDArray[np.int64] = np.minimum(np.floor(centre_l0 / patch_l0).astype(np.int64), n_places - 1)
    return places


def blend(pixels: NDArray[np.uint8], heat: Floats, *, low: float, high: float) -> NDArray[np.uint8]:
    """Lay colours over the slide in pale grey, so that colour means the value and nothing else.

    Args:
        pixels: RGB, shape (H, W, 3).
        heat: shape (H, W); NaN leaves the grey as it is.
        low: value of the first colour.
        high: value of the last colour.

    Returns:
        RGB, shape (H, W, 3).
    """
    grey = np.repeat((255 - _PALER * (255 - pixels @ _GREY))[..., None], 3, axis=-1)
    colours = colour_of(heat, low=low, high=high)
    mixed = np.where(np.isnan(heat)[..., None], grey, grey * (1 - _OPACITY) + colours * _OPACITY)
    return np.rint(mixed).astype(np.uint8)


def colour_of(values: Floats, *, low: float, high: float) -> Floats:
    """The colour of each value, RGB from 0 to 255 along a new last axis; of NaN that of ``low``."""
    shade = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    colours: Floats = mpl.colormaps[_COLOURS](shade)[..., :3] * 255
    return colours


def scale_bar_um(width_um: float) -> float:
    """Longest of 1, 2, 5 times a power of ten that is at most a quarter of the width, in micrometres."""
    power = 10.0 ** math.floor(math.log10(width_um / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= width_um / 4)


def _draw(overview: Overview, heat: Floats, patches: PatchValues, *, title: str) -> Any:
    height_px, width_px = overview.pixels.shape[:2]
    beside = width_px < 1.6 * height_px
    shape = (1, 2) if beside else (2, 1)
    panel_in = 4.2 if beside else 6.0
    tall_in = panel_in * height_px / width_px
    figure = new_figure(width_in=panel_in * shape[1] + 0.9, height_in=min(12.0, tall_in * shape[0] + 0.7))
    left, right = figure.subplots(*shape)
    painted = blend(overview.pixels, heat, low=patches.low, high=patches.high)
    for axes, picture in ((left, overview.pixels), (right, painted)):
        axes.imshow(picture, interpolation="antialiased")
        axes.set_axis_off()
        add_scale_bar(axes, width_px=width_px, height_px=height_px, mpp=overview.mpp)
    scale = mpl.cm.ScalarMappable(norm=Normalize(patches.low, patches.high), cmap=_COLOURS)
    over = bool((patches.values > patches.high).any())
    place = {"ax": [left, right], "shrink": 0.8, "aspect": 30, "pad": 0.02}
    # As opaque as on the slide, so that a colour on white tissue is that of the bar.
    bar = figure.colorbar(scale, alpha=_OPACITY, extend="max" if over else "neither", **place)
    bar.set_label(patches.quantity)
    bar.outline.set_linewidth(0.6)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
    return figure


def add_scale_bar(axes: Any, *, width_px: int, height_px: int, mpp: float) -> None:
    """Draw a scale bar into the lower left corner of a picture of the slide at ``mpp``."""
    length_um = scale_bar_um(width_px * mpp)
    length_px = length_um / mpp
    margin, thick = 0.03 * width_px, max(2.0, 0.008 * height_px)
    x, y = margin, height_px - margin - thick
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    frame = {"boxstyle": "square,pad=0.25", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    axes.text(x + length_px / 2, y - 1.8 * thick, text, ha="center", va="bottom", fontsize=8, bbox=frame)
    axes.add_patch(Rectangle((x, y), length_px, thick, facecolor="black", edgecolor="white", linewidth=0.6))


def _mpp_of(slide: Slide, bag: Bag, record: SlideRecord) -> float:
    """Micrometres per level-0 pixel as extraction resolved it: the size of a patch says it."""
    if bag.source is not None:
        return bag.source.target_mpp * bag.source.patch_px / bag.patch_l0
    return resolve_mpp(slide, mpp_override=record.mpp).value


def _describe(patches: PatchValues, overview: Overview, *, mpp: float, name: str) -> dict[str, Any]:
    """What the picture shows, with the patches of the highest values, highest first."""
    top = np.argsort(-patches.values, kind="stable")[:_LISTED_PATCHES]
    described: dict[str, Any] = plain(
        {
            "slide_id": name,
            "quantity": patches.quantity,
            "colour_range": [patches.low, patches.high],
            "n_patches": len(patches.values),
            "patch_l0": patches.patch_l0,
            "mpp": mpp,
            "picture_downsample": overview.downsample,
            "top_patches": [
                {"x_l0": patches.coords_l0[i, 0], "y_l0": patches.coords_l0[i, 1], "value": patches.values[i]}
                for i in top
            ],
        }
    )
    return described
