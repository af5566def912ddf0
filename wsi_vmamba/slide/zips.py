"""Slides inside a zip: what its directory says, and refusing one that would lead out of it or exhaust memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location

ZIP_MAGIC = b"PK\x03\x04"
#: Metadata of the largest pictures are a few hundred KB.
MAX_METADATA_BYTES = 16 << 20
#: Entries of a zip that inflate further than this, and to more than that, are bombs.
_MAX_RATIO, _FLOOR_BYTES = 200, 32 << 20


#: What zipfile raises on a damaged directory; a flipped byte may ask for a version or an encoding that is not there.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError)


def names_in_zip(path: Path) -> list[str]:
    """Names of all entries; none where the directory of the zip is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _DAMAGE:
        return []


def check_zip(path: str | Path, *, metadata: Iterable[str] = ()) -> None:
    """Refuse a zip with names that lead out of it, or entries that inflate beyond measure.

    Args:
        path: of the zip.
        metadata: names of files that are read whole, and may not be large.

    Raises:
        UnreadableSlideError: naming the entry, or the directory of the zip is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise UnreadableSlideError(
            path, f"the directory of the zip is damaged or cut short ({error})"
        ) from error
    check_zip_entries(path, entries, metadata=metadata)


def check_zip_entries(
    place: Location, entries: Iterable[zipfile.ZipInfo], *, metadata: Iterable[str] = ()
) -> None:
    """As `check_zip`, for the directory of a zip that is open already.

    Raises:
        UnreadableSlideError: naming the entry.
    """
    metadata = frozenset(metadata)
    for entry in entries:
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
            raise UnreadableSlideError(
                place, f"the zip holds the name {entry.filename!r}, which leads out of it; it is malicious"
            )
        is_bomb = entry.file_size > max(_FLOOR_BYTES, _MAX_RATIO * entry.compress_size)
        if is_bomb or (name.name in metadata and entry.file_size > MAX_METADATA_BYTES):
            raise UnreadableSlideError(
                place,
                f"{entry.filename} in the zip would inflate from {entry.compress_size} to {entry.file_size} "
                "bytes; it is damaged or made to exhaust memory",
            )
