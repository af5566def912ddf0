"""Which picture of a TIFF is read, with its levels and resolution. Reads the directory, never a pixel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import tifffile

from wsi_vmamba.errors import SceneError, UnreadableSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.scenes import LEFT_OUT, Scene
from wsi_vmamba.slide.tiff.facts import check_ome_planes, read_facts
from wsi_vmamba.slide.tiff.levels import TiffLevel, read_level
from wsi_vmamba.slide.tiff.pages import (
    MAX_PAGES,
    check_numbers,
    choose_picture,
    find_pictures,
    is_first_alone,
    reduced_pages,
    unclear_pages,
)
from wsi_vmamba.slide.tiff.pixels import describe, read_pixel_form
from wsi_vmamba.slide.tiff.vendors import check_missing_tiles, check_vendor

#: OpenSlide takes the first page for the slide and every page that is marked as reduced for its level.
_OPENSLIDE_ERRS = "OpenSlide would take another picture of this TIFF for the slide, or mix several"
_ICC_PROFILE = 34675
#: Hamamatsu's tags for the magnification of a page, and for the depth that it was scanned at.
_NDPI_LENS, _NDPI_OFFSET = 65421, 65424
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


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Everything the directory of a TIFF says that reading needs."""

    levels: tuple[TiffLevel, ...]
    mpp: RecordedMpp | None
    properties: Mapping[str, str]
    scene: Scene
    scenes: tuple[Scene, ...]
    icc_profile: bytes | None = None


def read_layout(path: str, *, size_bytes: int, scene: int | None = None) -> TiffLayout:
    """Read the directory of a TIFF.

    Args:
        path: of the file.
        size_bytes: of the file.
        scene: which of its pictures; None for the one that is the slide.

    Raises:
        NeedsOtherReaderError: a vendor's own layout, or a pixel format that is not decoded natively.
        SceneError: there is no such scene, or nothing tells which of them is the slide.
        UnsupportedSlideError: a pixel format that no reader gives the right pixels of.
        UnreadableSlideError: the directory is damaged, or claims what the file cannot hold.
    """
    with _directory(path) as tif:
        return _read_layout(path, tif, size_bytes, scene)


def scenes_for_openslide(path: str) -> tuple[Scene, tuple[Scene, ...]]:
    """The picture that OpenSlide reads in a TIFF without a vendor, which is the slide, and all that the file holds.

    Raises:
        SceneError: nothing tells which picture is the slide, or OpenSlide would read another or mix several.
        UnsupportedSlideError: it is a stack, or its channels are not the colours of one picture.
        UnreadableSlideError: the directory is damaged.
        VendorLayoutError: it is a vendor's own layout after all.
    """
    with _directory(path) as tif:
        pages = _pages(path, tif)
        pictures = find_pictures(path, tif, pages)
        picture = choose_picture(path, pictures, asked=None)
        if not is_first_alone(picture, pages):
            raise SceneError(path, f"{_OPENSLIDE_ERRS}; leave out --reader openslide")
        if picture.ome is not None:
            check_ome_planes(path, picture.ome, picture.base)
        return picture.scene, tuple(each.scene for each in pictures)


def look_at_first_page(path: str, look: Callable[[str, tifffile.TiffPage], None]) -> None:
    """Show the first page of a TIFF, which is what OpenSlide takes for level 0, to a function that may refuse it.

    Raises:
        UnreadableSlideError: the directory is damaged.
    """
    with _directory(path) as tif:
        check_numbers(path, [tif.pages[0]])
        look(path, tif.pages[0])


def ndpi_focal_offsets(path: str) -> tuple[int, ...]:
    """Offsets of the focal planes of an NDPI, as it records them, in rising order; none of another file.

    Raises:
        UnreadableSlideError: the directory is damaged.
    """
    with _directory(path) as tif:
        found = set()
        for page in tif.pages[:MAX_PAGES]:
            lens, offset = (page.tags.get(tag) for tag in (_NDPI_LENS, _NDPI_OFFSET))
            if lens is not None and offset is not None and lens.value > 0:  # macro and map have no lens
                found.add(int(offset.value))
        return tuple(sorted(found))


@contextmanager
def _directory(path: str) -> Iterator[tifffile.TiffFile]:
    """The file as tifffile sees it; what it raises on damage is turned into an error that names the file."""
    try:
        with tifffile.TiffFile(path) as tif:
            yield tif
    except UnreadableSlideError:
        raise
    except OSError as error:
        raise UnreadableSlideError(path, f"cannot read the file ({error})") from error
    except _DAMAGE as error:
        raise UnreadableSlideError(path, f"the TIFF directory is damaged or cut short ({error})") from error


def _pages(path: str, tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages = []
    for number in range(min(len(tif.pages), MAX_PAGES)):
        check_vendor(path, tif.pages[number])
        pages.append(tif.pages[number])
    if not pages:
        raise UnreadableSlideError(path, "the TIFF holds no picture; it is damaged or was never finished")
    check_numbers(path, pages)
    return pages


def _read_layout(path: str, tif: tifffile.TiffFile, size_bytes: int, scene: int | None) -> TiffLayout:
    pages = _pages(path, tif)
    pictures = find_pictures(path, tif, pages)
    picture = choose_picture(path, pictures, asked=scene)
    facts = read_facts(path, tif, picture.base, ome=picture.ome)
    try:
        levels = tuple(read_level(path, page, size_bytes) for page in [picture.base, *reduced_pages(picture)])
        if tif.is_svs:
            check_missing_tiles(path, [level.byte_counts for level in levels])
    except NeedsOtherReaderError as error:
        if is_first_alone(picture, pages):
            raise
        raise UnreadableSlideError(
            path, f"{error.message}, and {_OPENSLIDE_ERRS}; export that picture alone"
        ) from error
    stored = {
        **describe(read_pixel_form(path, picture.base)),
        "tile": f"{levels[0].tile_width_px} x {levels[0].tile_height_px}",
    }
    if unclear := unclear_pages(picture):
        stored[LEFT_OUT] = unclear
    return TiffLayout(
        levels=levels,
        mpp=facts.mpp,
        properties={**facts.properties, **stored},
        scene=picture.scene,
        scenes=tuple(each.scene for each in pictures),
        icc_profile=_icc_profile(picture.base),
    )


def _icc_profile(page: tifffile.TiffPage) -> bytes | None:
    tag = page.tags.get(_ICC_PROFILE)
    return tag.value if tag is not None and isinstance(tag.value, bytes) and tag.value else None
