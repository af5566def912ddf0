"""The tile tables of a TIFF's levels, checked against what the file can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.compose import Opacity
from wsi_vmamba.slide.tiff.pixels import read_pixel_form
from wsi_vmamba.slide.tile_codecs import TileFormat

#: Decoding works a tile at a time, so this bounds memory whatever a header claims.
_MAX_TILE_BYTES = 1 << 29
#: Uncompressed strips are read in bands of about this size.
_BAND_BYTES = 1 << 20
#: No scan compresses this far; a header that claims more is damaged or malicious.
_MAX_RATIO = 4000
_BOMB_FLOOR_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffLevel:
    """The tile table of one level; strips are tiles as wide as the level.

    Attributes:
        offsets, byte_counts: int64, one entry per tile, row by row, plane after plane; 0 for a tile never written.
        is_tiled: False for strips.
        planes: 1, or the number of samples where each is stored apart.
        colours: samples at the front that are colours, 1 or 3.
        opacity: what the sample after them says; None where it says nothing, or is not there.
    """

    width_px: int
    height_px: int
    tile_width_px: int
    tile_height_px: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    form: TileFormat
    is_tiled: bool
    planes: int
    colours: int
    opacity: Opacity | None

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width_px // self.tile_width_px)

    @property
    def rows(self) -> int:
        """Tiles on top of each other."""
        return -(-self.height_px // self.tile_height_px)

    def stored_rows(self, row: int) -> int:
        """Rows of pixels in a tile: tiles are stored whole at the edge, the last strip ends with the picture."""
        if self.is_tiled:
            return self.tile_height_px
        return min(self.tile_height_px, self.height_px - row * self.tile_height_px)


def read_level(path: str, page: tifffile.TiffPage, size_bytes: int) -> TiffLevel:
    """Read the tile table of one page.

    Args:
        path: for messages.
        page: the page.
        size_bytes: of the file.

    Raises:
        NeedsOtherReaderError: pixels that are not decoded natively.
        UnreadableSlideError: the table is damaged, or claims what the file cannot hold.
    """
    if not len(page.dataoffsets):
        raise UnreadableSlideError(path, "the TIFF directory lists neither tiles nor strips; it is damaged")
    pixels = read_pixel_form(path, page)
    form, planes = pixels.tiles, pixels.planes
    width, height = page.imagewidth, page.imagelength
    tile_width, tile_height = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
    )
    _check_limits(
        path,
        (width, height),
        (tile_width, tile_height),
        page.samplesperpixel,
        form,
        size_bytes,
        is_tiled=page.is_tiled,
    )
    offsets, counts = (
        np.array(table, dtype=np.uint64).astype(np.int64) for table in (page.dataoffsets, page.databytecounts)
    )
    if form.compression == 1 and len(offsets) == planes == 1 and not page.is_tiled:
        tile_height, offsets, counts = _into_bands(width * form.samples, height, offsets, counts)
    level = TiffLevel(
        width_px=width, height_px=height, tile_width_px=tile_width, tile_height_px=tile_height,
        offsets=offsets, byte_counts=counts, form=form, is_tiled=page.is_tiled, planes=planes,
        colours=pixels.colours, opacity=pixels.opacity,
    )  # fmt: skip
    expected = level.columns * level.rows * planes
    if len(offsets) != expected or len(counts) != expected:
        raise UnreadableSlideError(
            path,
            f"the table of a {width} x {height} px level lists {len(offsets)} tiles, expected {expected}; the file "
            "is damaged or cut short",
        )
    return level


def _into_bands(
    row_bytes: int, height_px: int, offsets: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Cut one uncompressed strip, which may be the whole slide, into bands of rows."""
    if not offsets[0]:
        return height_px, offsets, counts
    rows = max(1, _BAND_BYTES // row_bytes)
    tops = np.arange(0, height_px, rows, dtype=np.int64)
    return rows, offsets[0] + tops * row_bytes, np.minimum(rows, height_px - tops) * row_bytes


def _check_limits(
    path: str,
    size_px: tuple[int, int],
    tile_px: tuple[int, int],
    samples: int,
    form: TileFormat,
    size_bytes: int,
    *,
    is_tiled: bool,
) -> None:
    """Refuse sizes that the file cannot hold, before anything is allocated for them."""
    if min(*size_px, *tile_px) <= 0:
        raise UnreadableSlideError(path, f"the TIFF directory claims {size_px} px in tiles of {tile_px} px")
    pixel_bytes = math.prod(size_px) * samples
    if pixel_bytes > _BOMB_FLOOR_BYTES and pixel_bytes > _MAX_RATIO * size_bytes:
        raise UnreadableSlideError(
            path,
            f"the header claims {size_px[0]} x {size_px[1]} px, {pixel_bytes / 2**30:.0f} GiB, in a file of "
            f"{size_bytes} bytes; it is damaged, cut short or made to exhaust memory",
        )
    banded = form.compression == 1 and not is_tiled and tile_px == size_px
    if math.prod(tile_px) * samples > _MAX_TILE_BYTES and not banded:
        raise UnreadableSlideError(
            path,
            f"one {form.codec} tile or strip is {tile_px[0]} x {tile_px[1]} px, which cannot be decoded in parts; "
            "expected at most 512 MiB each; save the slide again with tiles of 256 to 1024 px",
        )
