"""Zarr slides behind URLs, through fsspec: a store to read from, and the search of a folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.zip import ZipFileSystem
from zarr.storage import FsspecStore

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.readers import folder_suffixes, slide_suffixes
from wsi_vmamba.slide.web import client_options, in_words, remote_errors
from wsi_vmamba.slide.zarr import FEATURE_ARRAYS, MARKERS
from wsi_vmamba.slide.zarr.guard import METADATA
from wsi_vmamba.slide.zips import check_zip_entries

_ZIPS = (".zip", ".ozx")


def open_remote_store(url: str) -> FsspecStore:
    """Return a read-only store of the zarr group, array or zip at a URL; nothing is read yet but a zip's directory.

    Credentials, endpoint and region come from where the client looks for them: for S3 the usual AWS variables and
    files, ``AWS_ENDPOINT_URL``, and ``FSSPEC_S3_ANON=true`` for public buckets.

    Raises:
        UnreadableSlideError: the library for the protocol is not installed, or a zip cannot be opened.
    """
    chained = f"zip::{url}" if url.lower().endswith(_ZIPS) and "::" not in url else url
    with _Named(url):
        store = FsspecStore.from_url(chained, storage_options=client_options(chained), read_only=True)
        entries = zip_directory(store)
        if entries is not None:
            check_zip_entries(url, entries, metadata=METADATA)
        return store


def zip_directory(store: FsspecStore) -> list[zipfile.ZipInfo] | None:
    """What a zip behind a URL holds; None where a store is no zip."""
    # zarr wraps the zip's own file system, which is not asynchronous.
    inner = getattr(store.fs, "sync_fs", None)
    return inner.zip.infolist() if isinstance(inner, ZipFileSystem) else None


def find_remote_slides(url: str) -> list[str]:
    """List the slides at or below a URL, sorted; a zarr folder gives itself.

    Zarr folders and zips are slides. Files of other formats are listed too, so that a run names them as what cannot
    be read from a URL.

    Raises:
        UnreadableSlideError: there is nothing, it cannot be listed, or a library is missing.
    """
    # A slide by its name needs no listing, which web servers do not offer and many S3 users may not.
    if url.lower().endswith((*folder_suffixes(), *_ZIPS, *slide_suffixes())) or "::" in url:
        return [url]
    with _Named(url):
        system, root = fsspec.core.url_to_fs(url, **client_options(url))
        if not system.exists(root):
            remedy = "; web servers are not searched, list the slides in the path column of a CSV"
            raise UnreadableSlideError(
                url, f"nothing there, or no permission to list it{remedy if url.startswith('http') else ''}"
            )
        if system.isfile(root):
            return [url]
        return [system.unstrip_protocol(name) for name in sorted(_walk(system, root))]


def _walk(system: Any, folder: str) -> Iterator[str]:
    """Yield slides below a folder, without looking inside zarr folders: they may hold a million objects."""
    entries = system.ls(folder, detail=True)
    names = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}
    if any(marker in names for marker in MARKERS):
        if not names.keys() >= set(FEATURE_ARRAYS):
            yield folder
        return
    for name, entry in sorted(names.items()):
        if name.startswith(".") or entry["name"].rstrip("/") == folder.rstrip("/"):
            continue
        if entry["type"] == "directory":
            yield from _walk(system, entry["name"].rstrip("/"))
        elif name.lower().endswith(slide_suffixes()):
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
                self.url, f"{error}; for s3:// and https:// run `pip install 'wsi-vmamba[remote]'`"
            ) from error
        if isinstance(error, (OSError, ValueError, *remote_errors())):
            raise UnreadableSlideError(self.url, f"cannot be reached: {in_words(error)}") from error
