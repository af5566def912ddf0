"""One file from a server to the disk: goes on where it was interrupted, checked, and whole under its name or absent."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from wsi_vmamba.datasets.bucket import RemoteFile
from wsi_vmamba.errors import DownloadError

PIECE_BYTES = 2**20
#: Connections that may break on one file with no byte gained before it is given up.
ATTEMPTS = 5
#: First wait after a broken connection; doubled each time.
WAIT_S = 1.0


class Server(Protocol):
    """What files are fetched from: a bucket, the web."""

    def stream(self, file: RemoteFile, *, start: int, piece_bytes: int) -> Iterator[bytes]:
        """Yield the file from byte ``start`` on; a broken connection is a `DownloadError`."""
        ...


def fetch(
    server: Server,
    file: RemoteFile,
    path: Path,
    *,
    md5: str | None,
    on_bytes: Callable[[int], None] = lambda _: None,
    wait_s: float = WAIT_S,
) -> None:
    """Download ``file`` to ``path`` unless it is there in full.

    What has arrived lies beside it under a name that holds the object's tag, so that a later call goes on with it,
    and never with the beginning of another version.

    Args:
        server: where the object is.
        file: the object as listed.
        path: where it goes; its folder is made.
        md5: what its content must hash to; None accepts a matching size.
        on_bytes: called with the number of bytes that have arrived since the last call.
        wait_s: first wait after a broken connection.

    Raises:
        DownloadError: the connection kept breaking, the content does not match, or the disk refused it.
    """
    if path.is_file() and path.stat().st_size == file.size_bytes:
        on_bytes(file.size_bytes)
        return
    part = part_path(path, file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_other_parts(path, keep=part)
        _fill(server, file, part, on_bytes=on_bytes, wait_s=wait_s)
        _check(part, file, md5=md5)
        part.replace(path)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(
            f"{path}: {error.strerror or error}; what has arrived is kept in {part.name}"
        ) from error


def part_path(path: Path, file: RemoteFile) -> Path:
    """Where the bytes of an unfinished download lie."""
    return path.with_name(f".{path.name}.{file.etag}.part")


def missing_bytes(path: Path, file: RemoteFile) -> int:
    """How many bytes of ``file`` are still to come."""
    if path.is_file() and path.stat().st_size == file.size_bytes:
        return 0
    part = part_path(path, file)
    return file.size_bytes - (min(part.stat().st_size, file.size_bytes) if part.is_file() else 0)


def md5_of(path: Path) -> str:
    """MD5 of a file as hex."""
    # No protection against forgery: it is what the publishers of the data list.
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fill(
    server: Server, file: RemoteFile, part: Path, *, on_bytes: Callable[[int], None], wait_s: float
) -> None:
    """Append to ``part`` until it has the size of the object."""
    with part.open("ab") as out:
        if out.tell() > file.size_bytes:
            out.truncate(0)
            out.seek(0)
        on_bytes(out.tell())
        failures = 0
        while out.tell() < file.size_bytes:
            before = out.tell()
            try:
                for piece in server.stream(file, start=before, piece_bytes=PIECE_BYTES):
                    out.write(piece)
                    on_bytes(len(piece))
            except DownloadError:
                failures = 0 if out.tell() > before else failures + 1
                if failures >= ATTEMPTS:
                    raise
                time.sleep(wait_s * 2**failures)
        out.flush()
        os.fsync(out.fileno())


def _check(part: Path, file: RemoteFile, *, md5: str | None) -> None:
    size = part.stat().st_size
    found = md5_of(part) if md5 else None
    if size == file.size_bytes and found == md5:
        return
    part.unlink()
    what = (
        f"{size} bytes, expected {file.size_bytes}"
        if size != file.size_bytes
        else f"MD5 {found}, expected {md5}"
    )
    raise DownloadError(f"{file.key}: arrived damaged ({what}); it was removed, run the same command again")


def _remove_other_parts(path: Path, *, keep: Path) -> None:
    for stale in path.parent.glob(f".{path.name}.*.part"):
        if stale != keep:
            stale.unlink()
