"""What is where in a TIFF: levels, tile tables, resolution. Reads the directory, never a pixel."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import defusedxml
import numpy as np
import tifffile
from defusedxml import ElementTree
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.tile_codecs import (
    CODEC_NAMES,
    JPEG,
    JPEG2000,
    MIN_IS_BLACK,
    MIN_IS_WHITE,
    RGB,
    YCBCR,
    TileFormat,
)

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
_UM_PER_UNIT = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}
#: What tifffile raises on damaged directories, found by flipping bytes of sound files.
_DAMAGE = (tifffile.TiffFileError, struct.error, ValueError, LookupError, TypeError, ArithmeticError, EOFError)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffLevel:
    """The tile table of one level; strips are tiles as wide as the level.

    Attributes:
        offsets, byte_counts: int64, one entry per tile, row by row, plane after plane; 0 for a tile never written.
        is_tiled: False for strips.
        planes: 1, or 3 where red, green and blue are stored apart.
        has_alpha: the fourth sample is opacity.
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
    has_alpha: bool

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
        UnreadableSlideError: the directory is damaged, or claims what the file cannot hold.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            return _read_layout(path, tif, size_bytes)
    except UnreadableSlideError:
        raise
    except OSError as error:
        raise UnreadableSlideError(path, f"cannot read the file ({error})") from error
    except _DAMAGE as error:
        raise UnreadableSlideError(path, f"the TIFF directory is damaged or cut short ({error})") from error


def _read_layout(path: str, tif: tifffile.TiffFile, size_bytes: int) -> TiffLayout:
    _check_vendor(path, tif)
    pages = [tif.pages[i] for i in range(min(len(tif.pages), _MAX_PAGES))]
    if not pages:
        raise UnreadableSlideError(path, "the TIFF holds no picture; it is damaged or was never finished")
    base = _base_page(pages)
    ome = _ome_pixels(path, tif)
    _check_ome_planes(path, ome, base)
    levels = tuple(_level(path, page, size_bytes) for page in [base, *_reduced_pages(base, pages)])
    form = levels[0].form
    properties = {
        "format": _format_name(tif),
        "codec": form.codec,
        "tile": f"{levels[0].tile_width_px} x {levels[0].tile_height_px}",
        "description": base.description,
        "software": base.software,
    }
    if tif.is_svs:
        properties |= {"vendor": "aperio"}
        power = re.search(r"\bAppMag\s*=\s*([\d.]+)", base.description)
        properties |= {"objective_power": power[1]} if power else {}
    return TiffLayout(
        levels=levels, mpp=_recorded_mpp(tif, base, ome), properties={k: v for k, v in properties.items() if v}
    )


def _check_vendor(path: str, tif: tifffile.TiffFile) -> None:
    """Leave layouts whose tiles overlap, carry offsets, or hide sizes in XML to OpenSlide, which knows them."""
    kinds = {"Hamamatsu NDPI": "is_ndpi", "Leica SCN": "is_scn", "Ventana BIF": "is_bif", "Philips TIFF": "is_philips"}
    for name, flag in kinds.items():
        if getattr(tif, flag):
            raise NeedsOtherReaderError(path, f"{name} is read through OpenSlide")


def _format_name(tif: tifffile.TiffFile) -> str:
    name = "Aperio SVS" if tif.is_svs else "OME-TIFF" if tif.is_ome else "TIFF"
    return f"{name} (BigTIFF)" if tif.is_bigtiff else name


def _base_page(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    """The page of level 0: the largest tiled one, else the first."""
    tiled = [page for page in pages if page.is_tiled]
    return max(tiled, key=lambda page: page.imagewidth * page.imagelength, default=pages[0])


def _reduced_pages(base: tifffile.TiffPage, pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """Pages that show the same picture smaller, finest first.

    Labels and macros have another aspect; thumbnails are stripped where the slide is tiled, and not marked as
    reduced resolution where it is not.
    """
    others = [page for page in pages if page is not base]
    if base.subifds:
        others += list(base.pages)[:_MAX_PAGES]
    found: dict[int, tifffile.TiffPage] = {}
    for page in others:
        belongs = page.is_tiled if base.is_tiled else not page.is_tiled and page.subfiletype == 1
        width, height = page.imagewidth, page.imagelength
        if not belongs or not 0 < width < base.imagewidth or height <= 0 or page.samplesperpixel != base.samplesperpixel:
            continue
        height_due = base.imagelength * width / base.imagewidth
        if abs(height - height_due) <= max(2.0, _ASPECT_TOLERANCE * height_due):
            found.setdefault(width, page)
    return [found[width] for width in sorted(found, reverse=True)]


def _level(path: str, page: tifffile.TiffPage, size_bytes: int) -> TiffLevel:
    form, planes = _tile_format(path, page)
    width, height = page.imagewidth, page.imagelength
    tile_width, tile_height = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
    )
    _check_claims(path, (width, height), (tile_width, tile_height), page.samplesperpixel, form, size_bytes)
    offsets, counts = (
        np.array(table, dtype=np.uint64).astype(np.int64) for table in (page.dataoffsets, page.databytecounts)
    )
    if form.compression == 1 and len(offsets) == planes == 1 and not page.is_tiled:
        tile_height, offsets, counts = _into_bands(width * form.samples, height, offsets, counts)
    level = TiffLevel(
        width_px=width, height_px=height, tile_width_px=tile_width, tile_height_px=tile_height,
        offsets=offsets, byte_counts=counts, form=form, is_tiled=page.is_tiled, planes=planes,
        has_alpha=page.samplesperpixel == 4,
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
    banded = form.compression == 1 and tile_px[0] == size_px[0]
    if math.prod(tile_px) * samples > _MAX_TILE_BYTES and not banded:
        raise UnreadableSlideError(
            path,
            f"one {form.codec} tile or strip is {tile_px[0]} x {tile_px[1]} px, which cannot be decoded in parts; "
            "expected at most 512 MiB each; save the slide again with tiles of 256 to 1024 px",
        )


def _tile_format(path: str, page: tifffile.TiffPage) -> tuple[TileFormat, int]:
    """How tiles are stored, and in how many planes; what is not decoded natively is left to OpenSlide."""
    samples, compression, photometric = page.samplesperpixel, int(page.compression), int(page.photometric)
    planes = samples if page.planarconfig == 2 else 1
    own_colours = compression == JPEG or compression in JPEG2000
    colours = {1: (MIN_IS_WHITE, MIN_IS_BLACK), 3: (RGB, YCBCR) if own_colours else (RGB,), 4: (RGB,)}
    problems = {
        f"{page.bitspersample} bits per sample, expected 8": page.bitspersample != 8 or page.sampleformat != 1,
        f"{samples} samples per pixel, expected 1, 3 or 4": samples not in colours,
        f"compression {compression}": compression not in CODEC_NAMES,
        f"photometric interpretation {photometric} of {samples} samples": photometric not in colours.get(samples, ()),
        f"predictor {page.predictor}": page.predictor not in (1, 2),
        "reversed bit order": page.fillorder != 1,
        "a volume": page.imagedepth != 1,
        "opacity in JPEG or in planes": samples == 4 and (own_colours or planes > 1),
        "YCbCr in planes": planes > 1 and photometric != RGB,
    }
    for problem, found in problems.items():
        if found:
            raise NeedsOtherReaderError(path, f"{problem} is not decoded natively")
    return TileFormat(
        compression=compression,
        photometric=MIN_IS_BLACK if planes > 1 else photometric,
        samples=1 if planes > 1 else samples,
        predictor=1 if own_colours else int(page.predictor),
        jpeg_tables=page.jpegtables,
    ), planes


def _ome_pixels(path: str, tif: tifffile.TiffFile) -> Mapping[str, str]:
    """Attributes of the first picture's Pixels element; empty for what is not OME-TIFF."""
    if not tif.is_ome:
        return {}
    try:
        pixels = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Image/{*}Pixels")
    except (ElementTree.ParseError, defusedxml.DefusedXmlException) as error:
        raise UnreadableSlideError(path, f"the OME-XML is damaged ({error})") from error
    return {} if pixels is None else dict(pixels.attrib)


def _check_ome_planes(path: str, ome: Mapping[str, str], base: tifffile.TiffPage) -> None:
    """Refuse stacks: taking their first plane for the slide would be a silent guess."""
    sizes = {axis: int(ome.get(f"Size{axis}", 1)) for axis in "ZTC"}
    if sizes["Z"] > 1 or sizes["T"] > 1 or sizes["C"] > max(1, base.samplesperpixel):
        raise UnreadableSlideError(
            path,
            f"expected one RGB picture, the OME-TIFF has {sizes['C']} channels of {base.samplesperpixel} samples, "
            f"{sizes['Z']} focal planes and {sizes['T']} times; export one plane as RGB",
        )


def _recorded_mpp(
    tif: tifffile.TiffFile, base: tifffile.TiffPage, ome: Mapping[str, str]
) -> RecordedMpp | None:
    if tif.is_svs:
        found = re.search(r"\bMPP\s*=\s*([\d.]+(?:[eE][-+]?\d+)?)", base.description)
        return _mpp(found and found[1], found and found[1], 1.0, 1.0, "Aperio's MPP")
    if "PhysicalSizeX" in ome:
        x, y = ome["PhysicalSizeX"], ome.get("PhysicalSizeY", ome["PhysicalSizeX"])
        units = [_UM_PER_UNIT.get(ome.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
        return _mpp(x, y, *units, "OME PhysicalSizeX")
    unit = _UM_PER_RESOLUTION_UNIT.get(_tag(base, "ResolutionUnit", 2))
    per_unit = [_tag(base, f"{axis}Resolution", (0, 1)) for axis in "XY"]
    if unit is None or not all(numerator and denominator for numerator, denominator in per_unit):
        return None
    x, y = (unit * denominator / numerator for numerator, denominator in per_unit)
    return RecordedMpp(x=x, y=y, source="TIFF resolution tags")


def _tag(page: tifffile.TiffPage, name: str, default: object) -> object:
    tag = page.tags.get(name)
    return default if tag is None else tag.value


def _mpp(
    x: str | None, y: str | None, x_unit_um: float | None, y_unit_um: float | None, source: str
) -> RecordedMpp | None:
    """None where the file says nothing, or nothing that is a length."""
    if x is None or y is None or x_unit_um is None or y_unit_um is None:
        return None
    mpp_x, mpp_y = float(x) * x_unit_um, float(y) * y_unit_um
    if not (0 < mpp_x < math.inf and 0 < mpp_y < math.inf):
        return None
    return RecordedMpp(x=mpp_x, y=mpp_y, source=source)
