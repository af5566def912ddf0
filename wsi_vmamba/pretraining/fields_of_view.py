"""Fields of view: squares of tissue, drawn at random places and scales from the level that suits. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_vmamba.pretraining.found_slides import FoundSlide
from wsi_vmamba.pretraining.view_settings import ViewSettings
from wsi_vmamba.slide.base import Level

#: Places that are tried for a field with enough tissue; then the one with most of it is taken.
_TRIES = 16


@dataclass(frozen=True, kw_only=True)
class Field:
    """A square of a slide, in pixels of one of its levels.

    Attributes:
        level: the level it is read from, at least as fine as its scale.
        x_px: left edge.
        y_px: top edge.
        side_px: side.
        um_per_px: its scale: the side in micrometres is this times the settings' ``field_px``.
    """

    level: int
    x_px: int
    y_px: int
    side_px: int
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


def draw_field(rng: np.random.Generator, slide: FoundSlide, settings: ViewSettings) -> Field:
    """A square of a random scale around a point of the tissue, each point equally likely.

    It is moved into the slide where it would stick out, and then so that it lies on as few stored tiles as its size
    allows, by less than half its side: tiles know nothing of tissue, and decoding them is most of the cost.

    Where the square shows less tissue than asked for, another point is drawn; where none of a few has enough, as in
    fragments smaller than the square, the one with most of it is taken.
    """
    um_per_px = _draw_scale(rng, slide, settings)
    number = best_level(slide.levels, downsample=um_per_px / slide.mpp)
    level = slide.levels[number]
    side_px = max(1, round(settings.field_px * um_per_px / (slide.mpp * level.downsample)))
    tile_width_px, tile_height_px = level.stored_px or (1, 1)
    best: tuple[float, int, int] | None = None
    for _ in range(_TRIES):
        x_l0, y_l0 = slide.places.draw(rng)
        x_px = place(x_l0 / level.downsample, side_px, length_px=level.width_px, tile_px=tile_width_px)
        y_px = place(y_l0 / level.downsample, side_px, length_px=level.height_px, tile_px=tile_height_px)
        share = slide.places.share(
            x_l0=x_px * level.downsample, y_l0=y_px * level.downsample, side_l0=side_px * level.downsample
        )
        if best is None or share > best[0]:
            best = (share, x_px, y_px)
        if share >= settings.min_tissue:
            break
    assert best is not None
    return Field(level=number, x_px=best[1], y_px=best[2], side_px=side_px, um_per_px=um_per_px)


def _draw_scale(rng: np.random.Generator, slide: FoundSlide, settings: ViewSettings) -> float:
    """Micrometres per pixel of a field, log-uniform between what settings and slide allow; takes one number.

    No finer than level 0, and no coarser than that a field fits into the slide, as far as both can be.
    """
    least, greatest = settings.um_per_px
    base = slide.levels[0]
    fits = min(base.width_px, base.height_px) * slide.mpp / settings.field_px
    low = max(least, slide.mpp)
    high = max(low, min(greatest, fits))
    return float(low * (high / low) ** rng.random())


def best_level(levels: Sequence[Level], *, downsample: float) -> int:
    """The coarsest level of at most that downsample, to a thousandth; the finest where none is."""
    fine_enough = [number for number, level in enumerate(levels) if level.downsample <= downsample * 1.001]
    return max(fine_enough, key=lambda number: levels[number].downsample, default=0)


def place(centre_px: float, side_px: int, *, length_px: int, tile_px: int) -> int:
    """Where a stretch of ``side_px`` around a point begins: inside the level, and on as few tiles as it can be.

    It is moved to other tiles by at most half its length, and stays where the level ends too soon for that. One that is
    longer than the level is laid around its middle.

    Args:
        centre_px: the point.
        side_px: length of the stretch.
        length_px: length of the level along this axis.
        tile_px: length of its tiles.
    """
    if side_px >= length_px:
        return (length_px - side_px) // 2
    start = min(max(0, round(centre_px - side_px / 2)), length_px - side_px)
    first_tile = start // tile_px
    too_far = start + side_px - (first_tile + math.ceil(side_px / tile_px)) * tile_px
    if too_far <= 0:
        return start
    to_next_tile = (first_tile + 1) * tile_px - start
    if too_far <= to_next_tile:
        return start - too_far
    return start + to_next_tile if start + to_next_tile + side_px <= length_px else start
