"""Fields of view: squares of tissue, drawn at random places and scales, and read from the level that suits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.pretraining.found_slides import FoundSlide
from wsi_vmamba.pretraining.settings_of_views import ViewSettings
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.base import Level

#: Places that are tried for a field with enough tissue; then the one with most of it is taken.
_TRIES = 16
#: A pixel whose darkest colour is at least this light is glass.
_GLASS_LEVEL = 222


@dataclass(frozen=True, kw_only=True)
class Field:
    """A square of a slide.

    Attributes:
        x_l0: left edge, in level-0 pixels.
        y_l0: top edge, in level-0 pixels.
        side_l0: side, in level-0 pixels.
        um_per_px: its scale: its side in micrometres is this times the settings' ``field_px``.
    """

    x_l0: float
    y_l0: float
    side_l0: float
    um_per_px: float


class SlideDraw:
    """Draws slides: equally often, or by the square root of their tissue's area."""

    def __init__(self, slides: Sequence[FoundSlide], settings: ViewSettings) -> None:
        """Weigh the slides."""
        areas = np.array([slide.places.area_um2 for slide in slides], dtype=np.float64)
        weights = np.ones_like(areas) if settings.slide_weight == "equal" else np.sqrt(areas)
        self._slides = slides
        self._until = np.cumsum(weights / weights.sum())

    def draw(self, rng: np.random.Generator) -> FoundSlide:
        """One slide; takes one number."""
        at = int(np.searchsorted(self._until, rng.random(), side="right"))
        return self._slides[min(at, len(self._slides) - 1)]


def draw_scale(rng: np.random.Generator, slide: FoundSlide, settings: ViewSettings) -> float:
    """Micrometres per pixel of a field, log-uniform between what settings and slide allow; takes one number.

    No finer than level 0, and no coarser than that a field fits into the slide, as far as both can be.
    """
    least, greatest = settings.um_per_px
    fits = min(slide.width_l0, slide.height_l0) * slide.mpp / settings.field_px
    low = max(least, slide.mpp)
    high = max(low, min(greatest, fits))
    return float(low * (high / low) ** rng.random())


def draw_field(
    rng: np.random.Generator, slide: FoundSlide, settings: ViewSettings, *, um_per_px: float
) -> Field:
    """A square around a point of the tissue, each point equally likely; moved into the slide where it would stick out.

    Where the square shows less tissue than asked for, another point is drawn; where none of a few has enough, as in
    fragments smaller than the square, the one with most of it is taken.
    """
    side_l0 = settings.field_px * um_per_px / slide.mpp
    best, best_share = None, -1.0
    for _ in range(_TRIES):
        x, y = slide.places.draw(rng)
        field = Field(
            x_l0=_inside(x - side_l0 / 2, side_l0, slide.width_l0),
            y_l0=_inside(y - side_l0 / 2, side_l0, slide.height_l0),
            side_l0=side_l0,
            um_per_px=um_per_px,
        )
        share = slide.places.share(x_l0=field.x_l0, y_l0=field.y_l0, side_l0=side_l0)
        if share > best_share:
            best, best_share = field, share
        if share >= settings.min_tissue:
            break
    assert best is not None
    return best


def read_field(slide: Slide, field: Field, *, mpp: float) -> NDArray[np.uint8]:
    """Read a field from the coarsest level that is at least as fine as its scale, as it is stored there.

    Args:
        slide: an open slide.
        field: the square.
        mpp: micrometres per level-0 pixel of the slide.

    Returns:
        uint8 RGB, (side, side, 3) in pixels of that level.

    Raises:
        BadTileError: a tile under it cannot be decoded.
        UnreadableSlideError: the slide cannot be read.
    """
    number = best_level(slide.levels, downsample=field.um_per_px / mpp)
    downsample = slide.levels[number].downsample
    side_px = max(1, round(field.side_l0 / downsample))
    return slide.read_region(
        x_l0=level_to_l0_px(round(field.x_l0 / downsample), downsample=downsample),
        y_l0=level_to_l0_px(round(field.y_l0 / downsample), downsample=downsample),
        level=number,
        width_px=side_px,
        height_px=side_px,
    )


def best_level(levels: Sequence[Level], *, downsample: float) -> int:
    """The coarsest level of at most that downsample, to a thousandth; the finest where none is."""
    fine_enough = [number for number, level in enumerate(levels) if level.downsample <= downsample * 1.001]
    return max(fine_enough, key=lambda number: levels[number].downsample, default=0)


def stained_share(picture: NDArray[np.uint8]) -> float:
    """How much of a picture is darker than glass in its darkest colour, 0 to 1; every second row and column counts."""
    darkest = picture[::2, ::2].min(axis=2)
    return float((darkest < _GLASS_LEVEL).mean())


def _inside(start: float, side: float, length: float) -> float:
    return min(max(0.0, start), length - side) if side <= length else math.floor((length - side) / 2)
