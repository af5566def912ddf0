"""Which files below a folder are slides; cheap, and in the same order everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.dicom import is_dicom, series_uid

#: Endings that announce a slide. A file that has one is listed even if damaged, so that a run names it as
#: failed instead of passing it over.
SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".tf8", ".tf2", ".qptiff", ".ndpi", ".mrxs", ".scn", ".bif"}
    | {".svslide", ".vms", ".vmu", ".czi", ".avs", ".vsi"}
)
#: Endings of zarr in one file.
ZIP_SUFFIXES = (".zarr.zip", ".ozx")
#: Files that make a folder a zarr group or array.
ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")


def find_slides(folder: str | Path, *, problems: list[UnreadableSlideError] | None = None) -> list[Path]:
    """List the slides at or below ``folder``, sorted by path; a single slide gives itself.

    Files are taken by their ending, DICOM by its content and one file (the first by name) per series. Hidden
    files, feature files of this package and the data folders beside ``.mrxs`` files are passed over. A folder
    that links lead to twice is searched once.

    Args:
        folder: where to look.
        problems: takes in an error for each folder that cannot be listed, and the search goes on.

    Raises:
        UnreadableSlideError: there is no such file or folder, or, without ``problems``, one cannot be listed.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UnreadableSlideError(folder, "no such file or folder")
    if not folder.is_dir() or is_zarr_folder(folder):
        return [folder]
    found: list[Path] = []
    seen: set[tuple[Path, str]] = set()
    for path in _walk(folder, problems, set()):
        announced = path.suffix.lower() in SLIDE_SUFFIXES or path.name.lower().endswith(ZIP_SUFFIXES)
        if announced or is_zarr_folder(path):
            found.append(path)
        elif is_dicom(path):
            # A file whose header has no series is its own series.
            series = (path.parent, series_uid(path) or path.name)
            if series not in seen:
                seen.add(series)
                found.append(path)
    return sorted(found)


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a zarr group or array; False also where it cannot be looked into."""
    try:
        return any((path / marker).is_file() for marker in ZARR_MARKERS)
    except PermissionError:
        return False


def is_feature_store(path: Path) -> bool:
    """Whether a zarr folder is a feature file of this package, by the arrays it is made of."""
    return all(is_zarr_folder(path / name) for name in ("features", "coords_l0"))


def _walk(
    folder: Path, problems: list[UnreadableSlideError] | None, seen: set[tuple[int, int]]
) -> Iterator[Path]:
    """Yield visible files, and zarr folders whole, in order of name."""
    try:
        there = folder.stat()
        if (there.st_dev, there.st_ino) in seen:
            return
        seen.add((there.st_dev, there.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        # Listing needs one permission and looking at what is listed another.
        folders = {entry.name for entry in entries if entry.is_dir()}
        zarrs = {name for name in folders if is_zarr_folder(folder / name)}
    except OSError as error:
        problem = UnreadableSlideError(folder, f"cannot list the folder ({error.strerror})")
        if problems is None:
            raise problem from error
        problems.append(problem)
        return
    companions = {Path(entry.name).stem for entry in entries if entry.name.lower().endswith(".mrxs")}
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.name not in folders:
            yield path
        elif entry.name in zarrs:
            if not is_feature_store(path):
                yield path
        elif entry.name not in companions:
            yield from _walk(path, problems, seen)
