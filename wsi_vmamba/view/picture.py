"""The pixels of one open slide as a viewer wants them: tiles, a small picture of the whole, a rectangle."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError, UsageError
from wsi_vmamba.geometry import l0_to_level_px
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.encoded import HasColourProfile, with_icc, without_icc
from wsi_vmamba.view.coarse import CoarsePicture
from wsi_vmamba.view.made_levels import Keep, MadeLevels
from wsi_vmamba.view.made_parts import MadeParts, Part
from wsi_vmamba.view.painted import stripes
from wsi_vmamba.view.pyramid import view_levels
from wsi_vmamba.view.shrinking import shrunk
from wsi_vmamba.view.stored_levels import StoredLevels

#: What pathologists cannot tell from the original, at a fifth of its size.
QUALITY = 85
#: A longer profile would be more than the tile that carries it.
MAX_ICC_BYTES = 32 << 10
#: Longest side of a rectangle that is asked for.
MAX_RECTANGLE_PX = 2048


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile as JPEG.

    Attributes:
        data: the file.
        source: whether its data lay in the slide's file as they are, were decoded, or are of a level that is made.
        is_damaged: whether some of it does not decode, and is shown as stripes.
        is_passing: whether it will be finer when more of the slide has been read.
    """

    data: bytes
    source: Literal["file", "decoded", "made"]
    is_damaged: bool
    is_passing: bool = False


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Part of a slide as pixels.

    Attributes:
        pixels: RGB, (height, width, 3).
        is_damaged: whether some of it does not decode, and is shown as stripes.
        is_passing: whether it will be finer when more of the slide has been read.
    """

    pixels: NDArray[np.uint8]
    is_damaged: bool
    is_passing: bool


class _KeptHere:
    """Keeps one coarse picture."""

    def __init__(self) -> None:
        self._kept: CoarsePicture | None = None
        self._lock = threading.Lock()

    def of(self, make: Callable[[], CoarsePicture]) -> CoarsePicture:
        with self._lock:
            if self._kept is None:
                self._kept = make()
            return self._kept


class SlidePicture:
    """An open slide as pictures. Safe to use from several threads; no lock is held while something is decoded."""

    def __init__(self, slide: Slide, *, made: MadeParts, keep: Keep | None = None) -> None:
        """Look at the slide's levels.

        Args:
            slide: an open slide; whoever opened it closes it.
            made: keeps parts of levels that the file lacks, for all slides together.
            keep: keeps its coarse picture, where it needs one; None keeps it with this.
        """
        self.slide = slide
        self.levels = view_levels(slide)
        self._stored = StoredLevels(slide)
        self.overlap_px = self._stored.overlap_px
        profile = slide.icc_profile if isinstance(slide, HasColourProfile) else None
        self.icc_bytes = 0 if profile is None else len(profile)
        self._icc = profile if self.carries_icc else None
        self._made = MadeLevels(
            self.levels, self._stored, made=made, name=slide.slide_id, keep=keep or _KeptHere().of
        )

    @property
    def coarse(self) -> CoarsePicture | None:
        """The coarse picture of a slide without small levels; None where there are some, or they are made at once."""
        return self._made.coarse

    def is_coarse(self, level: int) -> bool:
        """Whether a level is shown from the coarse picture."""
        return self._made.is_coarse(level)

    def passes(self, level: int) -> bool:
        """Whether tiles of a level may be shown as they lie in the file, but for some at its edges."""
        return self._stored.has_encoded(self.levels[level])

    def read_on(self, *, seconds: float) -> None:
        """Go on reading the coarse picture for about so long, if there is one that is not complete.

        Raises:
            UnreadableSlideError: as `tile`.
        """
        self._made.read_on(seconds=seconds)

    @property
    def carries_icc(self) -> bool:
        """Whether tiles carry the slide's colour profile."""
        return 0 < self.icc_bytes <= MAX_ICC_BYTES

    def tile(self, *, level: int, column: int, row: int) -> Tile:
        """One tile of a level of `levels`.

        Raises:
            UnreadableSlideError: the slide went away, was closed or cannot be read.
        """
        found = self.levels[level]
        box = found.tile_box_px(column=column, row=row, overlap_px=self.overlap_px)
        try:
            data = self._stored.encoded(found, column=column, row=row)
        except BadTileError:
            left, top, right, bottom = box
            pixels = stripes(left_px=left, top_px=top, width_px=right - left, height_px=bottom - top)
            return Tile(data=self._encode(pixels), source="file", is_damaged=True)
        if data is not None:
            if (
                self.icc_bytes > MAX_ICC_BYTES
            ):  # no tile has it then, or colours would change from one to the next
                data = without_icc(data)
            return Tile(data=data, source="file", is_damaged=False)
        is_passing = self._is_passing(level)
        pixels, is_damaged = self._read(level, box)
        source: Literal["decoded", "made"] = "decoded" if found.source is not None else "made"
        return Tile(data=self._encode(pixels), source=source, is_damaged=is_damaged, is_passing=is_passing)

    def _is_passing(self, level: int) -> bool:
        """Whether what is read of a level from now on may be finer later; asked before it is read."""
        coarse = self.coarse if self.is_coarse(level) else None
        return coarse is not None and not coarse.is_complete

    def thumbnail(self, max_px: int) -> Shown:
        """The whole slide as RGB of at most ``max_px`` a side.

        Raises:
            UnreadableSlideError: as `tile`.
        """
        finest = self.levels[0]
        shrink = min(1.0, max_px / max(finest.width_px, finest.height_px))
        size = tuple(max(1, round(side * shrink)) for side in (finest.width_px, finest.height_px))
        number = max(
            index for index, level in enumerate(self.levels)
            if index == 0 or (level.width_px >= size[0] and level.height_px >= size[1])
        )  # fmt: skip
        level = self.levels[number]
        is_passing = self._is_passing(number)
        pixels, is_damaged = self._read(number, (0, 0, level.width_px, level.height_px))
        return Shown(pixels=shrunk(pixels, size), is_damaged=is_damaged, is_passing=is_passing)

    def rectangle(self, *, x_l0: float, y_l0: float, width_l0: float, height_l0: float, max_px: int) -> Shown:
        """A rectangle of level 0 as RGB of at most ``max_px`` a side.

        Never enlarged: a side has at most as many pixels as level 0 has there. White beyond the slide.

        Raises:
            UnreadableSlideError: as `tile`.
            UsageError: the rectangle has no area, or ``max_px`` is not from 1 to `MAX_RECTANGLE_PX`.
        """
        values = (x_l0, y_l0, width_l0, height_l0)
        if (
            not all(math.isfinite(value) and abs(value) < 1e9 for value in values)
            or min(width_l0, height_l0) < 1
        ):
            raise UsageError("expected a rectangle of at least one level-0 pixel a side, in finite numbers")
        if not 1 <= max_px <= MAX_RECTANGLE_PX:
            raise UsageError(f"max_px must be from 1 to {MAX_RECTANGLE_PX}, got {max_px}")
        wanted = max(1.0, max(width_l0, height_l0) / max_px)
        number = max(
            index for index, level in enumerate(self.levels) if index == 0 or level.downsample <= wanted
        )
        level = self.levels[number]
        if max(width_l0, height_l0) / level.downsample > 2 * MAX_RECTANGLE_PX:
            raise UsageError(
                f"a rectangle of {width_l0:g} x {height_l0:g} level-0 px is larger than its smallest level serves"
            )
        left, top = (l0_to_level_px(math.floor(at), downsample=level.downsample) for at in (x_l0, y_l0))
        width, height = (max(1, round(side / level.downsample)) for side in (width_l0, height_l0))
        is_passing = self._is_passing(number)
        pixels, is_damaged = self._read_anywhere(number, (left, top, left + width, top + height))
        size = (max(1, round(width_l0 / wanted)), max(1, round(height_l0 / wanted)))
        return Shown(pixels=shrunk(pixels, size), is_damaged=is_damaged, is_passing=is_passing)

    def _read_anywhere(self, number: int, box: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], bool]:
        """A rectangle of a level that may reach beyond it, where it is white."""
        left, top, right, bottom = box
        level = self.levels[number]
        out = np.full((bottom - top, right - left, 3), 255, dtype=np.uint8)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, level.width_px), min(bottom, level.height_px)
        if x0 >= x1 or y0 >= y1:
            return out, False
        pixels, is_damaged = self._read(number, (x0, y0, x1, y1))
        out[y0 - top : y1 - top, x0 - left : x1 - left] = pixels
        return out, is_damaged

    def _read(self, number: int, box: tuple[int, int, int, int]) -> Part:
        """A rectangle inside a level."""
        level = self.levels[number]
        return self._stored.read(level, box) if level.source is not None else self._made.read(number, box)

    def _encode(self, pixels: NDArray[np.uint8]) -> bytes:
        return with_icc(encode_jpeg(pixels), self._icc)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels as a JPEG file."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorspace="RGB")
    return data
