"""A slide that reads around its damaged tiles and remembers where they are."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError
from wsi_vmamba.geometry import l0_to_level_px, level_to_l0_px
from wsi_vmamba.slide.averaged import read_thumbnail
from wsi_vmamba.slide.base import DamagedArea, Slide
from wsi_vmamba.slide.canvas import WHITE
from wsi_vmamba.slide.through import SlideThrough

__all__ = ["DamagedArea", "TolerantSlide"]

#: Where a reader cannot say which tile is bad, the damage is closed in on down to squares of this side.
_SMALLEST_PX = 64


class TolerantSlide(SlideThrough):
    """Another slide, with white where a tile is damaged.

    White is no replacement: whoever reads has to ask `damage` what was damaged, and leave it out. Only damaged
    tiles are tolerated; a slide that goes away, or cannot be read at all, is an error as ever.
    """

    def __init__(self, slide: Slide) -> None:
        """Read through ``slide``; closing this closes it."""
        super().__init__(slide)
        self._lock = threading.Lock()
        self._damage: set[DamagedArea] = set()

    def damage(self, level: int) -> tuple[DamagedArea, ...]:
        """What was found damaged on a level so far, in reading order; nothing is known of what was not read."""
        with self._lock:
            return tuple(sorted(area for area in self._damage if area.level == level))

    def add_damage(self, areas: Iterable[DamagedArea]) -> None:
        """Take in what was found when the same slide was read before, and is not read again."""
        with self._lock:
            self._damage.update(areas)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole slide at low resolution, as `Slide.thumbnail`; what it finds damaged is white and remembered."""
        return read_thumbnail(self, max_px)

    def read_region(
        self,
        *,
        x_l0: int,
        y_l0: int,
        level: int,
        width_px: int,
        height_px: int,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read RGB pixels as `Slide.read_region` does, white where a tile is damaged."""
        try:
            return self._slide.read_region(
                x_l0=x_l0, y_l0=y_l0, level=level, width_px=width_px, height_px=height_px, out=out
            )
        except BadTileError as error:
            if out is None:
                out = np.empty((height_px, width_px, 3), dtype=np.uint8)
            out[:] = WHITE
            downsample = self._slide.levels[level].downsample
            x_px, y_px = (l0_to_level_px(position, downsample=downsample) for position in (x_l0, y_l0))
            self._read_around(out, error, level=level, x_px=x_px, y_px=y_px)
            return out

    def _read_around(
        self, out: NDArray[np.uint8], error: BadTileError, *, level: int, x_px: int, y_px: int
    ) -> None:
        """Fill ``out``, at (x_px, y_px) of the level, but for the tile that ``error`` is about."""
        height, width = out.shape[:2]
        bad = _inside(error.box_px, width=width, height=height, x_px=x_px, y_px=y_px)
        if bad is None and max(width, height) > _SMALLEST_PX:
            parts = _halves(width=width, height=height, x_px=x_px, y_px=y_px)
        else:
            left, top, right, bottom = bad or (0, 0, width, height)
            self._remember(error, level, error.box_px if bad else (x_px, y_px, width, height))
            parts = [
                (slice(0, top), slice(0, width)),
                (slice(bottom, height), slice(0, width)),
                (slice(top, bottom), slice(0, left)),
                (slice(top, bottom), slice(right, width)),
            ]
        for rows, columns in parts:
            part = out[rows, columns]
            if part.size:
                self._read_part(part, level=level, x_px=x_px + columns.start, y_px=y_px + rows.start)

    def _read_part(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        downsample = self._slide.levels[level].downsample
        try:
            out[:] = self._slide.read_region(
                x_l0=level_to_l0_px(x_px, downsample=downsample),
                y_l0=level_to_l0_px(y_px, downsample=downsample),
                level=level,
                width_px=out.shape[1],
                height_px=out.shape[0],
            )
        except BadTileError as error:
            self._read_around(out, error, level=level, x_px=x_px, y_px=y_px)

    def _remember(self, error: BadTileError, level: int, box_px: tuple[int, int, int, int] | None) -> None:
        if box_px is None:
            return
        x_px, y_px, width_px, height_px = box_px
        area = DamagedArea(
            level=level, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px, cause=error.message
        )
        with self._lock:
            self._damage.add(area)


def _inside(
    box_px: tuple[int, int, int, int] | None, *, width: int, height: int, x_px: int, y_px: int
) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of a box inside a rectangle, counted from the rectangle's corner."""
    if box_px is None:
        return None
    x, y, box_width, box_height = box_px
    left, right = max(0, x - x_px), min(width, x + box_width - x_px)
    top, bottom = max(0, y - y_px), min(height, y + box_height - y_px)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _halves(*, width: int, height: int, x_px: int, y_px: int) -> list[tuple[slice, slice]]:
    """Cut the longer side near its middle, where a multiple of a usual tile size falls on the level if one does."""
    along_x = width >= height
    start, length = (x_px, width) if along_x else (y_px, height)
    middle = start + length // 2
    cuts = [middle // step * step for step in (256, _SMALLEST_PX)]
    cut = next((at for at in cuts if start < at < start + length), middle) - start
    if along_x:
        return [(slice(0, height), slice(0, cut)), (slice(0, height), slice(cut, width))]
    return [(slice(0, cut), slice(0, width)), (slice(cut, height), slice(0, width))]
