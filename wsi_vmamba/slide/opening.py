"""From a path to an open slide: the first bytes of the file, not its name, choose the reader."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from wsi_vmamba.content import HEAD_BYTES, describe
from wsi_vmamba.errors import SceneError, SlideError, UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError, Slide, VendorLayoutError
from wsi_vmamba.slide.find import SLIDE_SUFFIXES, is_feature_store, is_zarr_folder
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.slide.readers import READERS

#: What OpenSlide calls a TIFF without a vendor.
_ORDINARY = "generic-tiff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXPECTED = "expected a whole-slide image (TIFF, SVS, NDPI, MRXS, SCN, BIF, CZI, DICOM, OME-Zarr)"


def open_slide(path: Location, *, reader: str | None = None, scene: int | None = None) -> Slide:
    """Open a slide with the reader its content asks for, or with ``reader``, a name in the READERS table.

    TIFF opens natively where it can, and through OpenSlide where the layout is a vendor's own. From a URL only
    zarr is read.

    Args:
        path: the file, folder or URL.
        reader: the reader, instead of the one that the content asks for.
        scene: which of several pictures in the file; None for the one that is the slide, see `choose_scene`.

    Raises:
        SceneError: there is no such scene, or nothing tells which of several is the slide.
        UnreadableSlideError: missing, empty, damaged, or not a slide; the message says what was found instead.
        UnknownNameError: no such reader.
    """
    if isinstance(path, str) and is_url(path):
        _refuse_other_remote(path, reader)
        return _open("zarr", path, scene)
    if reader is not None:
        return _open(reader, path, scene)
    path = Path(path)
    kind = sniff(path)
    if kind == "tiff" and path.suffix.lower() == ".vsi":
        raise UnsupportedSlideError(
            path,
            f"this is the cover of an Olympus VSI, with a thumbnail in it; the slide is in the folder _{path.stem}_, "
            "in a format that is not read; convert it to OME-Zarr or OME-TIFF, for example with bioformats2raw",
        )
    if kind != "tiff":
        return _open(kind, path, scene)
    try:
        return _open("tiff", path, scene)
    except NeedsOtherReaderError as native:
        return _open_other_tiff(path, native, scene)


def sniff(path: Path) -> str:
    """Name of the reader that the content of a file or folder asks for.

    Raises:
        UnreadableSlideError: nothing here is a slide, or it cannot be looked at.
    """
    try:
        if path.is_dir():
            return _sniff_folder(path)
        head = _read_head(path)
    except OSError as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(path, f"cannot read the file ({error.strerror})") from error
    if not head:
        raise UnreadableSlideError(path, f"the file is empty (0 bytes); {_EXPECTED}")
    if head[:4] in _TIFF:
        return "tiff"
    if head[:4] == b"PK\x03\x04" and _is_zarr_zip(path):
        return "zarr"
    if _openslide_knows(path):
        return "openslide"
    if path.suffix.lower() == ".mrxs":
        raise UnreadableSlideError(
            path,
            f"the folder {path.stem} with Slidedat.ini and the pixels is not beside it, and the .mrxs file alone has "
            "none; copy both",
        )
    raise UnreadableSlideError(path, f"{_EXPECTED}, found {describe(head)}")


def _refuse_other_remote(url: str, reader: str | None) -> None:
    """Refuse what cannot be read from a URL, before the network is asked."""
    if reader not in {None, "zarr"} or url.lower().endswith(tuple(SLIDE_SUFFIXES)):
        raise UnreadableSlideError(
            url,
            "from a URL only OME-Zarr is read (a folder or a .zarr.zip); copy other slides to a local disk first",
        )


def _open(reader: str, path: Location, scene: int | None) -> Slide:
    slide: Slide = READERS.resolve(reader)(path, scene=scene)
    return slide


def _open_other_tiff(path: Path, native: NeedsOtherReaderError, scene: int | None) -> Slide:
    """Open through OpenSlide what is not read natively, unless it does not know the vendor either."""
    try:
        slide = _open("openslide", path, scene)
    except SceneError:
        raise
    except SlideError as error:
        # A vendor's file that OpenSlide cannot open is as likely damaged; an ordinary one seemed sound until now.
        kind = UnreadableSlideError if isinstance(native, VendorLayoutError) else UnsupportedSlideError
        raise kind(path, f"native TIFF: {native.message}; OpenSlide: {error.message}") from error
    if isinstance(native, VendorLayoutError) and slide.properties["vendor"] == _ORDINARY:
        slide.close()
        raise UnsupportedSlideError(
            path,
            f"native TIFF: {native.message}; OpenSlide: it does not recognise this variant, and read as an ordinary "
            "TIFF its pixels would be wrong; export it as OME-TIFF or DICOM with the vendor's software",
        )
    return slide


def _sniff_folder(path: Path) -> str:
    if not is_zarr_folder(path):
        raise UnreadableSlideError(
            path, "expected a slide, found a folder; name the slide, or `extract` the folder"
        )
    if is_feature_store(path):
        raise UnreadableSlideError(path, "expected a slide, found a feature file of this package")
    return "zarr"


def _read_head(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not hang a run
    try:
        return os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)


def _is_zarr_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name in {"zarr.json", ".zgroup", ".zarray"} for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _openslide_knows(path: Path) -> bool:
    vendor: str | None = READERS.resolve("openslide").detect_vendor(path)
    return vendor is not None
