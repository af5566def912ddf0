"""OME-Zarr and plain zarr pictures."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.slide.reader import Reader
from wsi_vmamba.slide.zips import ZIP_MAGIC, names_in_zip

#: Files that make a folder a zarr group or array.
MARKERS = frozenset({"zarr.json", ".zgroup", ".zarray"})
#: Arrays of this package's own feature files.
FEATURE_ARRAYS = ("features", "coords_l0")


def recognises(head: bytes, path: Location) -> bool:
    """Whether it is a zarr folder, a zip of one, or a URL, which only opening can tell.

    Raises:
        UnreadableSlideError: it is a feature file of this package.
    """
    if is_url(path):
        return True
    path = Path(path)
    if head.startswith(ZIP_MAGIC):
        return any(Path(name).name in MARKERS for name in names_in_zip(path))
    if head or not is_zarr_folder(path):
        return False
    if all(is_zarr_folder(path / name) for name in FEATURE_ARRAYS):
        raise UnreadableSlideError(path, "expected a slide, found a feature file of this package")
    return True


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a zarr group or array; False also where it cannot be looked into."""
    try:
        return any((path / marker).is_file() for marker in MARKERS)
    except PermissionError:
        return False


READER = Reader(
    title="zarr",
    formats=("OME-Zarr",),
    slide="wsi_vmamba.slide.zarr.slide:ZarrSlide",
    recognises=recognises,
    suffixes=(".zarr.zip", ".ozx", ".ome.zarr.zip", ".ome.zarr.ozx", ".ome.ozx"),
    folder_suffixes=(".zarr", ".ome.zarr"),
    remote=True,
)
