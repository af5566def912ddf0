"""Features as a picture: the first three principal components of a slide as red, green and blue."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.report.heatmap import PatchValues, add_scale_bar, paint_patches, read_picture
from wsi_vmamba.report.style import FigureFiles, house_style, new_figure, png_bytes, save
from wsi_vmamba.slide import Slide
from wsi_vmamba.store import FeatureMeta

#: Values beyond these percentiles of the slide's patches share the ends of a colour, so that a few do not take it all.
_PERCENTILES = (1.0, 99.0)
_COMPONENTS = 3


def principal_colours(features: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn features into colours that tell alike from unlike.

    Args:
        features: shape (N, D), at least three patches of at least three features.

    Returns:
        RGB in [0, 1], shape (N, 3), each component spread between its first and last percentile; and the share of the
        variance that each of the three explains. Signs are fixed: the largest loading of each component is positive.
        Patches that are all equal are all grey.

    Raises:
        UsageError: fewer than three patches or features.
    """
    if min(features.shape) < _COMPONENTS:
        raise UsageError(
            f"three principal components need three patches of three features, got {features.shape[0]} patches of "
            f"{features.shape[1]}"
        )
    if (features == features[0]).all():
        return np.full((len(features), _COMPONENTS), 0.5), np.zeros(_COMPONENTS)
    values = features.astype(np.float64)
    values -= values.mean(axis=0)
    # In NumPy: scikit-learn takes seconds to import.
    _, singular, components = np.linalg.svd(values, full_matrices=False)
    first = components[:_COMPONENTS]
    largest = np.abs(first).argmax(axis=1)
    scores = values @ (first * np.sign(first[range(_COMPONENTS), largest])[:, None]).T
    low, high = np.percentile(scores, _PERCENTILES, axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return np.clip((scores - low) / spread, 0.0, 1.0), singular[:_COMPONENTS] ** 2 / (singular**2).sum()


class PatchFeatures(Protocol):
    """Features of a slide, in a file or in memory."""

    @property
    def meta(self) -> FeatureMeta:
        """What they are."""
        ...

    @property
    def features(self) -> NDArray[np.float16]:
        """Features, shape (N, D)."""
        ...

    @property
    def coords_l0(self) -> NDArray[np.int64]:
        """Top-left corners (x, y) in level-0 pixels, shape (N, 2)."""
        ...


def draw_components(slide: Slide, stored: PatchFeatures, folder: Path) -> FigureFiles:
    """Draw the slide and, beside it, its patches in the colours of their principal components.

    Colours compare patches of one slide; between slides they mean nothing.

    Returns:
        ``<slide_id>.components.png`` and ``.json`` in ``folder``.

    Raises:
        UsageError: too few patches.
    """
    with house_style():
        figure, facts = _figure(slide, stored)
        return save(figure, facts, folder=folder, name=f"{stored.meta.slide_id}.components")


def components_png(slide: Slide, stored: PatchFeatures) -> bytes:
    """The picture of `draw_components` as the bytes of a PNG."""
    with house_style():
        return png_bytes(_figure(slide, stored)[0])


def _figure(slide: Slide, stored: PatchFeatures) -> tuple[Any, dict[str, Any]]:
    """The picture, and the numbers it shows; inside `house_style`."""
    meta = stored.meta
    colours, explained = principal_colours(stored.features)
    overview = read_picture(slide, mpp=meta.mpp)
    shape_px = (overview.pixels.shape[0], overview.pixels.shape[1])
    painted = np.stack(
        [
            paint_patches(_channel(stored, colours[:, i]), shape_px=shape_px, downsample=overview.downsample)
            for i in range(_COMPONENTS)
        ],
        axis=-1,
    )
    picture = np.rint(np.nan_to_num(painted, nan=1.0) * 255).astype(np.uint8)
    height_px, width_px = shape_px
    beside = width_px < 1.6 * height_px
    shape, panel_in = ((1, 2), 4.2) if beside else ((2, 1), 6.0)
    tall_in = panel_in * height_px / width_px
    facts = {
        "slide_id": meta.slide_id,
        "backbone": meta.model,
        "weights_sha256": meta.weights_hash,
        "n_patches": len(stored.coords_l0),
        "explained_variance": [float(share) for share in explained],
    }
    figure = new_figure(width_in=panel_in * shape[1], height_in=min(12.0, tall_in * shape[0] + 0.4))
    for axes, pixels in zip(figure.subplots(*shape), (overview.pixels, picture), strict=True):
        axes.imshow(pixels, interpolation="nearest" if pixels is picture else "antialiased")
        axes.set_axis_off()
        add_scale_bar(axes, width_px=width_px, height_px=height_px, mpp=overview.mpp)
    title = f"{meta.slide_id}: principal components of {meta.model} features"
    figure.suptitle(title, fontsize=9, fontweight="bold", x=0.02, ha="left")
    return figure, facts


def _channel(stored: PatchFeatures, values: NDArray[np.float64]) -> PatchValues:
    return PatchValues(
        values=values, coords_l0=stored.coords_l0, patch_l0=stored.meta.patch_l0, low=0.0, high=1.0,
        quantity="principal component",
    )  # fmt: skip
