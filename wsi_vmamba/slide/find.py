"""Which files below a folder are slides; cheap, and in the same order everywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from wsi_vmamba.errors import SlideError, UnreadableSlideError
from wsi_vmamba.slide.readers import readers, slide_suffixes


def find_slides(folder: str | Path, *, problems: list[UnreadableSlideError] | None = None) -> list[Path]:
    """List the slides at or below ``folder``, sorted by path; a single slide gives itself.

    Files are taken by their ending; of a slide in several files without one, such as a DICOM series, the first by
    name. Folders that a reader recognises are slides; those that it knows as a part of a slide or as a feature file
    of this package are passed over, as are hidden files. A folder that links lead to twice is searched once.

    Args:
        folder: where to look.
        problems: takes in an error for each folder that cannot be listed, and the search goes on.

    Raises:
        UnreadableSlideError: there is no such file or folder, or, without ``problems``, one cannot be listed.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UnreadableSlideError(folder, "no such file or folder")
    if not folder.is_dir() or _is_whole(folder) is not None:
        return [folder]
    suffixes = slide_suffixes()
    found: list[Path] = []
    seen: set[tuple[Path, str]] = set()
    for path in _walk(folder, problems, set()):
        if path.name.lower().endswith(suffixes) or path.is_dir():
            found.append(path)
            continue
        slide = next((name for reader in readers() if (name := reader.part_of(path)) is not None), None)
        if slide is not None and (path.parent, slide) not in seen:
            seen.add((path.parent, slide))
            found.append(path)
    return sorted(found)


def _is_whole(folder: Path) -> bool | None:
    """Whether a folder is a slide; None where it may hold slides, False where it is something else that holds none."""
    try:
        return True if any(reader.recognises(b"", folder) for reader in readers()) else None
    except SlideError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; one link in a circle is none, and must not hide all that lies beside it."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _walk(
    folder: Path, problems: list[UnreadableSlideError] | None, seen: set[tuple[int, int]]
) -> Iterator[Path]:
    """Yield visible files, and folders that are slides whole, in order of name."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        # Listing needs one permission and looking at what is listed another.
        whole = {
            entry.name: _is_whole(folder / entry.name)
            for entry in entries
            if _is_folder(entry) and not entry.name.startswith(".")
        }
    except OSError as error:
        problem = UnreadableSlideError(folder, f"cannot list the folder ({error.strerror})")
        if problems is None:
            raise problem from error
        problems.append(problem)
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.name not in whole or whole[entry.name]:
            yield path
        elif whole[entry.name] is None:
            yield from _walk(path, problems, seen)
