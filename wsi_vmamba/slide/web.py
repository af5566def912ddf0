"""Web servers as a source of slides: how long to wait, what their answers mean."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from typing import Any

#: Seconds until a server must be there, and the longest silence while it sends.
CONNECT_S, SILENCE_S = 20.0, 60.0
#: What some buckets answer instead of 404 to those who may not list them.
_FORBIDDEN = 403
_MEANING = {
    401: "the server asks who you are (401)",
    403: "no permission, or nothing there (403)",
    404: "nothing there (404)",
    429: "too many requests at once (429); try again later",
}
_PROTOCOL = re.compile(r"(?:.*::)?(https?)://")


def client_options(url: str) -> dict[str, Any]:
    """Storage options of fsspec for a URL: time limits, and the proxies and passwords of the environment.

    Empty but for ``http://`` and ``https://``, also behind ``zip::``: other clients have limits of their own.
    """
    found = _PROTOCOL.match(url)
    if found is None:
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    return {found[1]: options} if "::" in url else options


def is_forbidden(error: BaseException) -> bool:
    """Whether a server refused this one thing, as S3 does too where there is none and listing is not allowed."""
    return isinstance(error, PermissionError) or getattr(error, "status", None) == _FORBIDDEN


def in_words(error: BaseException) -> str:
    """What a network error means; clients hide the answer behind errors of their own, or leave them empty."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status", None)
        if isinstance(status, int):
            return _MEANING.get(status, f"the server answers {status} ({getattr(cause, 'message', '')})")
        if isinstance(cause, TimeoutError):
            return f"no answer in time: {CONNECT_S:.0f} s to connect, {SILENCE_S:.0f} s for each piece"
        cause = cause.__cause__
    if isinstance(error, FileNotFoundError):
        return "nothing there" if error.__cause__ is None else str(error.__cause__)
    if "range requests" in str(error).lower():
        return "the server cannot send parts of files (Range requests), which zips need"
    return str(error) or type(error).__name__


@cache
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
