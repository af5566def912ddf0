"""One file from a web server: goes on where it was interrupted, and whole under its name or absent."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from wsi_vmamba import __version__
from wsi_vmamba.datasets.bucket import RemoteFile
from wsi_vmamba.datasets.fetch import WAIT_S, fetch
from wsi_vmamba.errors import DownloadError, UsageError

#: Seconds without a byte after which a connection counts as dead.
TIMEOUT_S = 60.0
_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


def is_url(text: str) -> bool:
    """Whether a text is the address of a file on a web server."""
    return text.startswith(("http://", "https://"))


def file_name(url: str) -> str:
    """The name that a file has on its server.

    Raises:
        UsageError: the address ends in none.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise UsageError(f"{url} ends in no name of a file; give the address of a checkpoint")
    return name


def download(url: str, folder: Path, *, wait_s: float = WAIT_S) -> Path:
    """Fetch a file into a folder, unless it is there in full, and return it.

    Raises:
        UsageError: the address ends in no name.
        DownloadError: the server refuses, does not say the size, or keeps breaking off.
    """
    path = folder / file_name(url)
    fetch(_Web(), look(url), path, md5=None, wait_s=wait_s)
    return path


def look(url: str) -> RemoteFile:
    """Ask a server for size and version of a file.

    Raises:
        DownloadError: it refuses, or does not say.
    """
    try:
        with closing(_ask(url, method="HEAD")) as answer:
            headers = answer.headers
    except _BROKEN as error:
        raise DownloadError(f"{url}: {_words(error)}") from error
    size = headers.get("Content-Length")
    if size is None or not size.isdigit():
        raise DownloadError(
            f"{url}: the server does not say how long the file is; fetch it yourself and add the file"
        )
    # Tags may hold characters that no file name can; those without one are told apart by date and length.
    version = "|".join((url, size, headers.get("ETag") or headers.get("Last-Modified") or ""))
    return RemoteFile(key=url, size_bytes=int(size), etag=hashlib.sha256(version.encode()).hexdigest()[:16])


class _Web:
    """Web servers, as `fetch` reads from them."""

    def stream(self, file: RemoteFile, *, start: int, piece_bytes: int) -> Iterator[bytes]:
        """Yield the file from byte ``start`` on.

        Raises:
            DownloadError: the connection broke, or the file was replaced since it was looked at.
        """
        if look(file.key) != file:
            raise DownloadError(
                f"{file.key}: the file was replaced while it was fetched; run the same command again"
            )
        left = file.size_bytes - start
        try:
            with closing(_ask(file.key, first=start)) as answer:
                if start and answer.status != 206:  # a server that sends all or nothing
                    answer.read(start)
                while piece := answer.read(piece_bytes):
                    left -= len(piece)
                    yield piece
        except _BROKEN as error:
            raise DownloadError(f"{file.key}: {_words(error)}") from error
        if left > 0:  # the library takes a connection that is closed too early for the end
            raise DownloadError(
                f"{file.key}: the connection broke with {left} bytes to come; run it again to go on"
            )


def _ask(url: str, *, method: str = "GET", first: int = 0) -> Any:
    headers = {"User-Agent": f"wsi-vmamba/{__version__}"} | ({"Range": f"bytes={first}-"} if first else {})
    request = urllib.request.Request(url, method=method, headers=headers)
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answers {error.code} {error.reason}"
    return f"{getattr(error, 'reason', None) or error}"
