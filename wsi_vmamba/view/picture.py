"""The pixels of one open slide as a viewer wants them: tiles, a small picture of the whole, a rectangle."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError, UsageError
from wsi_vmamba.geometry import l0_to_level_px
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.encoded import EncodedTiles, HasColourProfile, with_icc
from wsi_vmamba.view.made_parts import MadeParts, Part
from wsi_vmamba.view.painted import PaintedSlide, stripes
from wsi_vmamba.view.pyramid import ViewLevel, view_levels

#: What pathologists cannot tell from the original, at a fifth of its size.
QUALITY = 85
#: A longer profile would be more than the tile that carries it.
MAX_ICC_BYTES = 32 << 10
#: Longest side of a rectangle that is asked for.
MAX_RECTANGLE_PX = 2048
#: JPEG decodes at a half, a quarter or an eighth.
LEAST_SHRUNK = 8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile as JPEG.

    Attributes:
        data: the file.
        source: whether its data lay in the slide's file as they are, were decoded, or are of a level that is made.
        is_damaged: whether some of it does not decode, and is shown as stripes.
    """

    data: bytes
    source: Literal["file", "decoded", "made"]
    is_damaged: bool


class SlidePicture:
    """An open slide as pictures. Safe to use from several threads; no lock is held while something is decoded."""

    def __init__(self, slide: Slide, *, made: MadeParts) -> None:
        """Look at the slide's levels.

        Args:
            slide: an open slide; whoever opened it closes it.
            made: keeps parts of levels that the file lacks, for all slides together.
        """
        self.slide = slide
        self.levels = view_levels(slide)
        self._encoded = slide if isinstance(slide, EncodedTiles) else None
        self.overlap_px = 0 if self._encoded is None else self._encoded.tile_overlap_px
        profile = slide.icc_profile if isinstance(slide, HasColourProfile) else None
        self.icc_bytes = 0 if profile is None else len(profile)
        self._icc = profile if self.carries_icc else None
        self._painted = PaintedSlide(slide)
        self._made = made
        self._key = object()  # whose parts are kept

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
            data = self._stored(found, column, row)
        except BadTileError:
            left, top, right, bottom = box
            pixels = stripes(left_px=left, top_px=top, width_px=right - left, height_px=bottom - top)
            return Tile(data=self._encode(pixels), source="file", is_damaged=True)
        if data is not None:
            return Tile(data=data, source="file", is_damaged=False)
        pixels, is_damaged = self._read(level, box)
        source: Literal["decoded", "made"] = "decoded" if found.source is not None else "made"
        return Tile(data=self._encode(pixels), source=source, is_damaged=is_damaged)

    def _stored(self, level: ViewLevel, column: int, row: int) -> bytes | None:
        """A tile's data as they lie in the file, if they can be shown so."""
        if self._encoded is None or level.source is None:
            return None
        if self.slide.levels[level.source].stored_px != (level.tile_width_px, level.tile_height_px):
            return None
        return self._encoded.encoded_tile(level=level.source, column=column, row=row)

    def thumbnail(self, max_px: int) -> tuple[NDArray[np.uint8], bool]:
        """The whole slide as RGB of at most ``max_px`` a side, and whether some of it is damaged.

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
        pixels, is_damaged = self._read(number, (0, 0, level.width_px, level.height_px))
        return _shrunk(pixels, size), is_damaged

    def rectangle(
        self, *, x_l0: float, y_l0: float, width_l0: float, height_l0: float, max_px: int
    ) -> tuple[NDArray[np.uint8], bool]:
        """A rectangle of level 0 as RGB of at most ``max_px`` a side, and whether some of it is damaged.

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
        pixels, is_damaged = self._read_anywhere(number, (left, top, left + width, top + height))
        size = (max(1, round(width_l0 / wanted)), max(1, round(height_l0 / wanted)))
        return _shrunk(pixels, size), is_damaged

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

    def _read(self, number: int, box: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], bool]:
        """A rectangle inside a level."""
        left, top, right, bottom = box
        level = self.levels[number]
        if level.source is not None:
            return self._painted.read(
                level=level.source, left_px=left, top_px=top, width_px=right - left, height_px=bottom - top
            )
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        is_damaged = False
        for row in range(top // level.tile_height_px, -(-bottom // level.tile_height_px)):
            for column in range(left // level.tile_width_px, -(-right // level.tile_width_px)):
                part, part_damaged = self._made_part(number, column, row)
                x, y = column * level.tile_width_px, row * level.tile_height_px
                x0, x1 = max(x, left), min(x + part.shape[1], right)
                y0, y1 = max(y, top), min(y + part.shape[0], bottom)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = part[y0 - y : y1 - y, x0 - x : x1 - x]
                is_damaged |= part_damaged
        return out, is_damaged

    def _made_part(self, number: int, column: int, row: int) -> Part:
        """The square of one tile of a level that is made."""
        stored = max(index for index in range(number) if self.levels[index].source is not None)
        return self._made.part(
            (self._key, number, column, row),
            halvings=number - stored,
            name=self.slide.slide_id,
            make=lambda: self._make_part(number, stored, column, row),
        )

    def _make_part(self, number: int, stored: int, column: int, row: int) -> Part:
        """Of stored tiles, which decode small at a fraction of the cost; else the level before it, halved."""
        level, finer = self.levels[number], self.levels[number - 1]
        box = level.tile_box_px(column=column, row=row)
        left, top, right, bottom = box
        shrink = 2 ** (number - stored)
        if shrink <= LEAST_SHRUNK and self._is_tiled(self.levels[stored], shrink):
            return self._shrunk_tiles(self.levels[stored], shrink, box)
        wider = (2 * left, 2 * top, min(2 * right, finer.width_px), min(2 * bottom, finer.height_px))
        pixels, is_damaged = self._read(number - 1, wider)
        return _halved(pixels, width_px=right - left, height_px=bottom - top), is_damaged

    def _is_tiled(self, level: ViewLevel, shrink: int) -> bool:
        """Whether tiles of a level that the slide has can be decoded at a fraction of their size."""
        return (
            self._encoded is not None
            and level.source is not None
            and not self.overlap_px
            and self.slide.levels[level.source].stored_px == (level.tile_width_px, level.tile_height_px)
            and level.tile_width_px % shrink == 0
            and level.tile_height_px % shrink == 0
        )

    def _shrunk_tiles(self, level: ViewLevel, shrink: int, box: tuple[int, int, int, int]) -> Part:
        """A rectangle of the level that is ``shrink`` times smaller than a stored one, from the tiles of this."""
        left, top, right, bottom = box
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        wide, high = level.tile_width_px // shrink, level.tile_height_px // shrink
        is_damaged = False
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                part, part_damaged = self._shrunk_tile(level, shrink, column, row)
                x, y = column * wide, row * high
                x0, x1 = max(x, left), min(x + part.shape[1], right)
                y0, y1 = max(y, top), min(y + part.shape[0], bottom)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = part[y0 - y : y1 - y, x0 - x : x1 - x]
                is_damaged |= part_damaged
        return out, is_damaged

    def _shrunk_tile(self, level: ViewLevel, shrink: int, column: int, row: int) -> Part:
        data = None
        with contextlib.suppress(BadTileError):  # read below, which stripes what is damaged
            data = self._stored(level, column, row)
        if data is not None:
            small = decoded_small(data, shrink)
            if small is not None:
                return small, False
        left, top, right, bottom = level.tile_box_px(column=column, row=row)
        assert level.source is not None
        pixels, is_damaged = self._painted.read(
            level=level.source, left_px=left, top_px=top, width_px=right - left, height_px=bottom - top
        )
        size = (-(-(right - left) // shrink), -(-(bottom - top) // shrink))
        return _padded_and_shrunk(pixels, shrink, size), is_damaged

    def _encode(self, pixels: NDArray[np.uint8]) -> bytes:
        return with_icc(encode_jpeg(pixels), self._icc)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels as a JPEG file."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorspace="RGB")
    return data


def decoded_small(data: bytes, shrink: int) -> NDArray[np.uint8] | None:
    """A JPEG file as RGB at a half, a quarter or an eighth of its size; None where its data are damaged."""
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    try:
        small: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=height // shrink, min_width=width // shrink
        )
    except ValueError:
        return None
    return small if small.shape[:2] == (height // shrink, width // shrink) else None


def _halved(pixels: NDArray[np.uint8], *, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Averaged two by two; an odd edge repeats its last pixel."""
    return _padded_and_shrunk(pixels, 2, (width_px, height_px))


def _padded_and_shrunk(pixels: NDArray[np.uint8], shrink: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Averaged in squares of ``shrink``; an edge that is cut repeats its last pixel."""
    bottom, right = shrink * size_px[1] - pixels.shape[0], shrink * size_px[0] - pixels.shape[1]
    if bottom or right:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return _shrunk(pixels, size_px)


def _shrunk(pixels: NDArray[np.uint8], size_px: tuple[int, ...]) -> NDArray[np.uint8]:
    """Area-averaged to (width, height)."""
    if (pixels.shape[1], pixels.shape[0]) == size_px:
        return pixels
    small: NDArray[np.uint8] = cv2.resize(pixels, size_px, interpolation=cv2.INTER_AREA)
    return small
