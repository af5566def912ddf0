"""The levels that a slide lacks, made of those that it has: parts by halves, or one coarse picture of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wsi_vmamba.view.coarse import CoarsePicture
from wsi_vmamba.view.made_parts import MadeParts, Part
from wsi_vmamba.view.pyramid import ViewLevel
from wsi_vmamba.view.shrinking import padded_and_shrunk
from wsi_vmamba.view.stored_levels import Box, StoredLevels, paste

#: Of more tiles than these a coarse level is not made while somebody waits for it.
MOST_TILES_AT_ONCE = 1024
#: A coarse picture has at most so many pixels; finer levels are made part by part.
COARSE_MAX_PX = 8 << 20
#: How long those who ask for a coarse picture first have its first pass made.
FIRST_LOOK_S = 1.0

#: Hands out the coarse picture of a slide, which outlives the slide's being closed; makes it where there is none.
Keep = Callable[[Callable[[], CoarsePicture]], CoarsePicture]


class MadeLevels:
    """Reads levels that have no source. Safe to use from several threads."""

    def __init__(
        self, levels: tuple[ViewLevel, ...], stored: StoredLevels, *, made: MadeParts, name: str, keep: Keep
    ) -> None:
        """Find out which levels can be made at once.

        Args:
            levels: of the viewer's pyramid.
            stored: reads those that the slide has.
            made: keeps parts, for all slides together.
            name: of the slide, for errors.
            keep: keeps the coarse picture.
        """
        self._levels, self._stored, self._made, self._name, self._keep = levels, stored, made, name, keep
        self._key = object()  # whose parts are kept
        self._below = max(index for index, level in enumerate(levels) if level.source is not None)
        self._coarse_from = self._first_coarse()

    @property
    def coarse(self) -> CoarsePicture | None:
        """The coarse picture of the whole; None where every level can be made at once."""
        return None if self._coarse_from is None else self._keep(self._new_coarse)

    def is_coarse(self, number: int) -> bool:
        """Whether a level is shown from the coarse picture."""
        return self._coarse_from is not None and number >= self._coarse_from

    def read_on(self, *, seconds: float, first_pass_only: bool = False) -> None:
        """Go on with the coarse picture, if there is one that is not complete."""
        coarse = self.coarse
        if coarse is not None and not coarse.is_complete:
            level = self._levels[self._below]
            coarse.read_on(
                lambda box: self._stored.read_small(level, coarse.shrink, box),
                seconds=seconds,
                first_pass_only=first_pass_only,
            )

    def read(self, number: int, box: Box) -> Part:
        """A rectangle of a level."""
        coarse = self.coarse if self.is_coarse(number) else None
        if coarse is not None:
            return self._of_coarse(coarse, number, box)
        left, top, right, bottom = box
        level = self._levels[number]
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        is_damaged = False
        for row in range(top // level.tile_height_px, -(-bottom // level.tile_height_px)):
            for column in range(left // level.tile_width_px, -(-right // level.tile_width_px)):
                part, part_damaged = self._part(number, column, row)
                x, y = column * level.tile_width_px, row * level.tile_height_px
                paste(part, out, x_px=x, y_px=y, left_px=left, top_px=top)
                is_damaged |= part_damaged
        return out, is_damaged

    def _first_coarse(self) -> int | None:
        """The finest level that is shown from the coarse picture, whose squares are of whole stored tiles."""
        below = self._levels[self._below]
        if below.columns * below.rows <= MOST_TILES_AT_ONCE or not self._stored.has_grid(below):
            return None
        return next(
            (
                number for number in range(self._below + 3, len(self._levels))
                if self._levels[number].width_px * self._levels[number].height_px <= COARSE_MAX_PX
            ),
            None,
        )  # fmt: skip

    def _new_coarse(self) -> CoarsePicture:
        assert self._coarse_from is not None
        below = self._levels[self._below]
        shrink = 2 ** (self._coarse_from - self._below)
        return CoarsePicture(
            width_px=below.width_px, height_px=below.height_px, shrink=shrink,
            square_px=math.lcm(below.tile_width_px, below.tile_height_px, shrink),
        )  # fmt: skip

    def _of_coarse(self, coarse: CoarsePicture, number: int, box: Box) -> Part:
        if not coarse.is_begun:
            self.read_on(seconds=FIRST_LOOK_S, first_pass_only=True)
        assert self._coarse_from is not None
        times = 2 ** (number - self._coarse_from)
        height, width = coarse.pixels.shape[:2]
        left, top, right, bottom = box
        wider = (times * left, times * top, min(times * right, width), min(times * bottom, height))
        pixels = coarse.pixels[wider[1] : wider[3], wider[0] : wider[2]]
        return padded_and_shrunk(pixels, times, (right - left, bottom - top)), coarse.is_damaged(wider)

    def _part(self, number: int, column: int, row: int) -> Part:
        """The square of one tile."""
        stored = max(index for index in range(number) if self._levels[index].source is not None)
        return self._made.part(
            (self._key, number, column, row),
            halvings=number - stored,
            name=self._name,
            make=lambda: self._make_part(number, stored, column, row),
        )

    def _make_part(self, number: int, stored: int, column: int, row: int) -> Part:
        """Of stored tiles, which decode small at a fraction of the cost; else the level before it, halved."""
        level, finer = self._levels[number], self._levels[number - 1]
        left, top, right, bottom = box = level.tile_box_px(column=column, row=row)
        shrink = 2 ** (number - stored)
        if self._stored.decodes_small(self._levels[stored], shrink):
            return self._stored.joined_small(self._levels[stored], shrink, box)
        wider = (2 * left, 2 * top, min(2 * right, finer.width_px), min(2 * bottom, finer.height_px))
        pixels, is_damaged = (
            self._stored.read(finer, wider) if finer.source is not None else self.read(number - 1, wider)
        )
        return padded_and_shrunk(pixels, 2, (right - left, bottom - top)), is_damaged
