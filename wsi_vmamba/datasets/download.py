"""The files of a public data set to a folder, several at a time, resumable and checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Event, Lock

from wsi_vmamba import console
from wsi_vmamba.datasets.bucket import Bucket, RemoteFile
from wsi_vmamba.datasets.fetch import PIECE_BYTES, fetch
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import DiskSpaceError, DownloadError

#: What a finished download leaves in the folder, for `check`: size and MD5 of each file.
INVENTORY = "download.json"
#: Left free on the disk.
RESERVE_BYTES = 2**30


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        DiskSpaceError: naming what is needed and what is there.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes and needed_bytes + RESERVE_BYTES > free:
        raise DiskSpaceError(
            f"{folder}: {in_gb(needed_bytes)} GB are to come and {in_gb(free)} GB are free (1 GB is kept in reserve); "
            "free some, choose another --to, or fewer --slides"
        )


def fetch_all(
    bucket: Bucket,
    files: Mapping[PurePosixPath, RemoteFile],
    checksums: Mapping[PurePosixPath, str],
    folder: Path,
    *,
    workers: int,
) -> dict[PurePosixPath, DownloadError]:
    """Download several files at a time; return those that failed, with the cause."""
    failed: dict[PurePosixPath, DownloadError] = {}
    pieces = sum(-(-file.size_bytes // PIECE_BYTES) for file in files.values())
    lock, stop = Lock(), Event()
    with console.progress("MB", max(1, pieces)) as task:

        def one(item: tuple[PurePosixPath, RemoteFile]) -> None:
            path, file = item
            arrived = shown = 0

            def on_bytes(count: int) -> None:
                nonlocal arrived, shown
                if stop.is_set():
                    raise _StoppedError
                arrived += count
                due = (
                    -(-file.size_bytes // PIECE_BYTES)
                    if arrived >= file.size_bytes
                    else arrived // PIECE_BYTES
                )
                with lock:
                    while shown < due:
                        shown += 1
                        task.step(path.name)

            try:
                fetch(bucket, file, folder / path, md5=known_md5(path, file, checksums), on_bytes=on_bytes)
            except DownloadError as error:
                failed[path] = error

        pool = ThreadPoolExecutor(workers)
        try:
            # Small files first, so that outlines are there when slides begin to arrive.
            ordered = sorted(files.items(), key=lambda item: (item[1].size_bytes, item[0]))
            list(pool.map(one, ordered))
        finally:
            # After Ctrl-C the other files must not be waited for.
            stop.set()
            pool.shutdown(cancel_futures=True)
    return failed


class _StoppedError(Exception):
    """The user interrupted the download; what has arrived is kept."""


def write_inventory(
    folder: Path,
    files: Mapping[PurePosixPath, RemoteFile],
    checksums: Mapping[PurePosixPath, str],
    failed: Mapping[PurePosixPath, DownloadError],
) -> None:
    """Add what is complete to the folder's list of sizes and checksums."""
    path = folder / INVENTORY
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, file in files.items():
        if name not in failed:
            known[str(name)] = {"size_bytes": file.size_bytes, "md5": known_md5(name, file, checksums)}
    write_atomic(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def known_md5(path: PurePosixPath, file: RemoteFile, checksums: Mapping[PurePosixPath, str]) -> str | None:
    """The MD5 that is published of a file, or that the server tells; None where neither is."""
    return checksums.get(path) or file.md5


def in_gb(size_bytes: int) -> str:
    """A size in gigabytes, with one decimal."""
    return f"{size_bytes / 1e9:.1f}"
