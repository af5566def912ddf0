"""Which slide it was: what changes when a slide is replaced, edited or still being copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from wsi_vmamba.slide.location import is_url

#: Of these a slide is one file of many, all in one folder.
_OF_A_FOLDER = frozenset({".dcm", ".vms", ".vmu"})


def slide_identity(path: str) -> str | None:
    """A digest of names, sizes and times of all files of a slide; None where it is gone, or behind a URL.

    Where the slide lies is no part of it: it may be mounted elsewhere on another machine.
    """
    if is_url(path):
        return None
    summary = hashlib.sha256()
    place = Path(path)
    try:
        for name, status in _files(place):
            summary.update(
                f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
    except OSError:
        return None
    return summary.hexdigest()


def _files(place: Path) -> Iterator[tuple[str, os.stat_result]]:
    if place.is_dir():
        yield from _below(place)
        return
    yield place.name, place.stat()
    companions = place.with_suffix("")  # the data of an MRXS
    if companions != place and companions.is_dir():
        yield from _below(companions)
    if place.suffix.lower() in _OF_A_FOLDER:
        for entry in sorted(os.scandir(place.parent), key=lambda entry: entry.name):
            if entry.is_file():
                yield entry.name, entry.stat()


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for root, names, files in os.walk(folder, onerror=_refuse):
        names.sort()
        for name in sorted(files):
            file = Path(root, name)
            yield str(file.relative_to(folder)), file.stat()


def _refuse(error: OSError) -> None:
    raise error
