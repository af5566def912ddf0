"""The levels that a slide has, as they are and decoded small."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.encoded import EncodedTiles
from wsi_vmamba.view.made_parts import Part
from wsi_vmamba.view.painted import PaintedSlide
from wsi_vmamba.view.pyramid import ViewLevel
from wsi_vmamba.view.shrinking import decoded_small, padded_and_shrunk

#: JPEG decodes at a half, a quarter or an eighth.
LEAST_SHRUNK = 8
#: Left, top, right and bottom, in pixels of a level.
Box = tuple[int, int, int, int]


class StoredLevels:
    """Reads levels that have a source. Safe to use from several threads."""

    def __init__(self, slide: Slide) -> None:
        """Read from ``slide``, which stays open when this is let go."""
        self._slide = slide
        self._encoded = slide if isinstance(slide, EncodedTiles) else None
        self.overlap_px = 0 if self._encoded is None else self._encoded.tile_overlap_px
        self._painted = PaintedSlide(slide)

    def has_grid(self, level: ViewLevel) -> bool:
        """Whether the tiles of a level are those that the slide stores."""
        sides = (level.tile_width_px, level.tile_height_px)
        return level.source is not None and self._slide.levels[level.source].stored_px == sides

    def has_encoded(self, level: ViewLevel) -> bool:
        """Whether tiles of a level may be shown as they lie in the file."""
        return (
            self._encoded is not None
            and level.source is not None
            and self.has_grid(level)
            and self._encoded.has_encoded_tiles(level.source)
        )

    def encoded(self, level: ViewLevel, *, column: int, row: int) -> bytes | None:
        """A tile's data as they lie in the file, if they can be shown so.

        Raises:
            BadTileError: they are damaged.
        """
        if self._encoded is None or level.source is None or not self.has_encoded(level):
            return None
        return self._encoded.encoded_tile(level=level.source, column=column, row=row)

    def read(self, level: ViewLevel, box: Box) -> Part:
        """A rectangle of a level."""
        left, top, right, bottom = box
        assert level.source is not None
        return self._painted.read(
            level=level.source, left_px=left, top_px=top, width_px=right - left, height_px=bottom - top
        )

    def decodes_small(self, level: ViewLevel, shrink: int) -> bool:
        """Whether tiles of a level can be decoded at a fraction of their size."""
        return (
            shrink <= LEAST_SHRUNK
            and not self.overlap_px
            and self.has_encoded(level)
            and level.tile_width_px % shrink == 0
            and level.tile_height_px % shrink == 0
        )

    def read_small(self, level: ViewLevel, shrink: int, box: Box) -> Part:
        """A rectangle of a level, ``shrink`` times smaller; it begins at a multiple of that."""
        left, top, right, bottom = box
        width, height = -(-(right - left) // shrink), -(-(bottom - top) // shrink)
        by_jpeg = min(shrink, LEAST_SHRUNK)
        if not self.decodes_small(level, by_jpeg):
            pixels, is_damaged = self.read(level, box)
            return padded_and_shrunk(pixels, shrink, (width, height)), is_damaged
        smaller = (left // by_jpeg, top // by_jpeg, -(-right // by_jpeg), -(-bottom // by_jpeg))
        pixels, is_damaged = self.joined_small(level, by_jpeg, smaller)
        return padded_and_shrunk(pixels, shrink // by_jpeg, (width, height)), is_damaged

    def joined_small(self, level: ViewLevel, shrink: int, box: Box) -> Part:
        """A rectangle, in pixels of the level that is ``shrink`` times smaller, of tiles that are decoded small."""
        left, top, right, bottom = box
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        wide, high = level.tile_width_px // shrink, level.tile_height_px // shrink
        is_damaged = False
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                part, part_damaged = self._small_tile(level, shrink, column, row)
                paste(part, out, x_px=column * wide, y_px=row * high, left_px=left, top_px=top)
                is_damaged |= part_damaged
        return out, is_damaged

    def _small_tile(self, level: ViewLevel, shrink: int, column: int, row: int) -> Part:
        data = None
        with contextlib.suppress(BadTileError):  # read below, which stripes what is damaged
            data = self.encoded(level, column=column, row=row)
        if data is not None:
            small = decoded_small(data, shrink)
            if small is not None:
                return small, False
        left, top, right, bottom = box = level.tile_box_px(column=column, row=row)
        pixels, is_damaged = self.read(level, box)
        size = (-(-(right - left) // shrink), -(-(bottom - top) // shrink))
        return padded_and_shrunk(pixels, shrink, size), is_damaged


def paste(
    part: NDArray[np.uint8], out: NDArray[np.uint8], *, x_px: int, y_px: int, left_px: int, top_px: int
) -> None:
    """Lay the part at (x, y) of a level into the rectangle of it that begins at (left, top), where both meet."""
    x0, x1 = max(x_px, left_px), min(x_px + part.shape[1], left_px + out.shape[1])
    y0, y1 = max(y_px, top_px), min(y_px + part.shape[0], top_px + out.shape[0])
    out[y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px] = part[
        y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px
    ]
