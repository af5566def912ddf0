"""What is where in a TIFF: levels, tile tables, resolution. Reads the directory, never a pixel."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.compose import Opacity
from wsi_vmamba.slide.tiff_facts import check_one_plane, read_facts
from wsi_vmamba.slide.tiff_pixels import describe, read_pixel_form
from wsi_vmamba.slide.tiff_vendors import check_missing_tiles, check_vendor
from wsi_vmamba.slide.tile_codecs import TileFormat

#: A pyramid has a handful of directories; a longer chain is a stack or a damaged file.
_MAX_PAGES = 256
#: Decoding works a tile at a time, so this bounds memory whatever a header claims.
_MAX_TILE_BYTES = 1 << 29
#: Uncompressed strips are read in bands of about this size.
_BAND_BYTES = 1 << 20
#: No scan compresses this far; a header that claims more is damaged or means harm.
_MAX_RATIO = 4000
_BOMB_FLOOR_BYTES = 1 << 30
#: How far the aspect of a level may stray: writers round each level's size.
_ASPECT_TOLERANCE = 0.01
#: What tifffile raises on damaged directories, found by flipping bytes of sound files.
_DAMAGE = (
    tifffile.TiffFileError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
)


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


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Everything the directory of a TIFF says that reading needs."""

    levels: tuple[TiffLevel, ...]
    mpp: RecordedMpp | None
    properties: Mapping[str, str]


def read_layout(path: str, *, size_bytes: int) -> TiffLayout:
    """Read the directory of a TIFF.

    Raises:
        NeedsOtherReaderError: a vendor's own layout, or a pixel format that is not decoded natively.
        UnsupportedSlideError: a pixel format that no reader gives the right pixels of.
        UnreadableSlideError: the directory is damaged, or claims what the file cannot hold.
    """
    with _damage_named(path), tifffile.TiffFile(path) as tif:
        return _read_layout(path, tif, size_bytes)


def look_at_first_page(path: str, look: Callable[[str, tifffile.TiffPage], None]) -> None:
    """Show the first page of a TIFF, which is what OpenSlide takes for level 0, to a function that may refuse it.

    Raises:
        UnreadableSlideError: the directory is damaged.
    """
    with _damage_named(path), tifffile.TiffFile(path) as tif:
        _check_numbers(path, [tif.pages[0]])
        look(path, tif.pages[0])


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Turn what tifffile raises on damage into an error that names the file."""
    try:
        yield
    except UnreadableSlideError:
        raise
    except OSError as error:
        raise UnreadableSlideError(path, f"cannot read the file ({error})") from error
    except _DAMAGE as error:
        raise UnreadableSlideError(path, f"the TIFF directory is damaged or cut short ({error})") from error


def _read_layout(path: str, tif: tifffile.TiffFile, size_bytes: int) -> TiffLayout:
    pages = []
    for number in range(min(len(tif.pages), _MAX_PAGES)):
        check_vendor(path, tif.pages[number])
        pages.append(tif.pages[number])
    if not pages:
        raise UnreadableSlideError(path, "the TIFF holds no picture; it is damaged or was never finished")
    _check_numbers(path, pages)
    base = _base_page(pages)
    facts = read_facts(path, tif, base)
    check_one_plane(path, base, pages)
    levels = tuple(_level(path, page, size_bytes) for page in [base, *_reduced_pages(path, base, pages)])
    if tif.is_svs:
        check_missing_tiles(path, [level.byte_counts for level in levels])
    stored = {
        **describe(read_pixel_form(path, base)),
        "tile": f"{levels[0].tile_width_px} x {levels[0].tile_height_px}",
    }
    return TiffLayout(levels=levels, mpp=facts.mpp, properties={**facts.properties, **stored})


def _check_numbers(path: str, pages: list[tifffile.TiffPage]) -> None:
    """Refuse sizes that are no numbers: a flipped bit in a tag's type makes them texts or tuples."""
    names = ("imagewidth", "imagelength", "tilewidth", "tilelength", "samplesperpixel", "bitspersample")
    for page in pages:
        for name in names:
            value = getattr(page, name)
            if not isinstance(value, int) or not 0 <= value < 2**31:
                raise UnreadableSlideError(
                    path, f"the TIFF directory is damaged ({name} is {str(value)[:40]})"
                )


def _base_page(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    """The page of level 0: the largest tiled one, else the first."""
    tiled = [page for page in pages if page.is_tiled]
    return max(tiled, key=lambda page: page.imagewidth * page.imagelength, default=pages[0])


def _reduced_pages(
    path: str, base: tifffile.TiffPage, pages: list[tifffile.TiffPage]
) -> list[tifffile.TiffPage]:
    """Pages that show the same picture smaller, finest first.

    Labels and macros have another aspect; thumbnails are stripped where the slide is tiled, and not marked as
    reduced resolution where it is not.
    """
    subpages = list(base.pages)[:_MAX_PAGES] if base.subifds else []
    _check_numbers(path, subpages)
    others = [page for page in pages if page is not base] + subpages
    found: dict[int, tifffile.TiffPage] = {}
    for page in others:
        belongs = page.is_tiled if base.is_tiled else not page.is_tiled and page.subfiletype == 1
        width, height = page.imagewidth, page.imagelength
        if (
            not belongs
            or not 0 < width < base.imagewidth
            or height <= 0
            or page.samplesperpixel != base.samplesperpixel
        ):
            continue
        height_due = base.imagelength * width / base.imagewidth
        if abs(height - height_due) <= max(2.0, _ASPECT_TOLERANCE * height_due):
            found.setdefault(width, page)
    return [found[width] for width in sorted(found, reverse=True)]


def _level(path: str, page: tifffile.TiffPage, size_bytes: int) -> TiffLevel:
    if not len(page.dataoffsets):
        raise UnreadableSlideError(path, "the TIFF directory lists neither tiles nor strips; it is damaged")
    pixels = read_pixel_form(path, page)
    form, planes = pixels.tiles, pixels.planes
    width, height = page.imagewidth, page.imagelength
    tile_width, tile_height = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
    )
    _check_claims(
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


def _check_claims(
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
