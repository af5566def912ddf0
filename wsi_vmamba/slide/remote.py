"""Zarr slides behind URLs, through fsspec: a store to read from, and the search of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import fsspec
from zarr.storage import FsspecStore

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.find import SLIDE_SUFFIXES, ZARR_MARKERS
from wsi_vmamba.slide.zarr_guard import check_zip_entries

_ZIP = ".zip"
_FEATURE_ARRAYS = {"features", "coords_l0"}


def open_remote_store(url: str) -> FsspecStore:
    """Return a read-only store of the zarr group, array or zip at a URL; nothing is read yet but a zip's directory.

    Credentials, endpoint and region come from where the client looks for them: for S3 the usual AWS variables and
    files, ``AWS_ENDPOINT_URL``, and ``FSSPEC_S3_ANON=true`` for public buckets.

    Raises:
        UnreadableSlideError: the library for the protocol is not installed, or a zip cannot be opened.
    """
    chained = f"zip::{url}" if url.lower().endswith(_ZIP) and "::" not in url else url
    with _Named(url):
        store = FsspecStore.from_url(chained, read_only=True)
        if chained.startswith("zip::"):
            # zarr wraps the zip's own file system, which is not asynchronous.
            check_zip_entries(url, store.fs.sync_fs.zip.infolist())
        return store


def find_remote_slides(url: str) -> list[str]:
    """List the slides at or below a URL, sorted; a zarr folder gives itself.

    Zarr folders and zips are slides. Files of other formats are listed too, so that a run names them as what cannot
    be read from a URL.

    Raises:
        UnreadableSlideError: there is nothing, it cannot be listed, or a library is missing.
    """
    # A slide by its name needs no listing, which web servers do not offer and many S3 users may not.
    if url.lower().endswith((".zarr", _ZIP, *SLIDE_SUFFIXES)) or "::" in url:
        return [url]
    with _Named(url):
        system, root = fsspec.core.url_to_fs(url)
        if not system.exists(root):
            raise UnreadableSlideError(url, "nothing there, or no permission to list it")
        if system.isfile(root):
            return [url]
        return [system.unstrip_protocol(name) for name in sorted(_walk(system, root))]


def remote_errors() -> tuple[type[Exception], ...]:
    """What the installed clients raise on networks and services that fail, beside OSError."""
    found: list[type[Exception]] = []
    if find_spec("botocore") is not None:
        from botocore.exceptions import BotoCoreError, ClientError

        found += [BotoCoreError, ClientError]
    if find_spec("aiohttp") is not None:
        from aiohttp import ClientError as HttpError

        found.append(HttpError)
    return tuple(found)


def _walk(system: Any, folder: str) -> Iterator[str]:
    """Yield slides below a folder, without looking inside zarr folders: they may hold a million objects."""
    entries = system.ls(folder, detail=True)
    names = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}
    if any(marker in names for marker in ZARR_MARKERS):
        if not names.keys() >= _FEATURE_ARRAYS:
            yield folder
        return
    for name, entry in sorted(names.items()):
        if name.startswith(".") or entry["name"].rstrip("/") == folder.rstrip("/"):
            continue
        if entry["type"] == "directory":
            yield from _walk(system, entry["name"].rstrip("/"))
        elif name.lower().endswith((".zarr.zip", *SLIDE_SUFFIXES)):
            yield entry["name"]


class _Named:
    """Turns what fsspec and its clients raise into an error that names the URL and the remedy."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UnreadableSlideError) or error is None:
            return
        if isinstance(error, ImportError):
            raise UnreadableSlideError(
                self.url, f"{error}; for s3:// run `pip install 'wsi-vmamba[remote]'`"
            ) from error
        if isinstance(error, (OSError, ValueError, *remote_errors())):
            raise UnreadableSlideError(self.url, f"cannot be reached ({error})") from error
