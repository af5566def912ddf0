"""How answers are made: JSON, pictures with tags by which browsers keep them, and errors that give nothing away."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from wsi_vmamba.errors import StoreError
from wsi_vmamba.view.safety import error_body

#: Of an address that names the stamp of its slide: what lies there never changes.
_KEPT = "private, max-age=86400, immutable"
_ASKED_EACH_TIME = "private, no-cache"


class RefusedError(Exception):
    """A request that is answered with an error; the words go to the browser as they are."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep what is answered."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class UnknownLayerError(StoreError):
    """A slide has no such layer."""


def refused(error: RefusedError) -> Response:
    """The answer to a request that is refused."""
    return Response(
        error_body(error.code, error.message),
        error.status,
        {"cache-control": "no-store"},
        media_type="application/json",
    )


def json_answer(request: Request, value: Any, *, stamp: str | None = None) -> Response:
    """A value as JSON; NaN is refused by `json`, so that no browser meets it."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    tag = hashlib.blake2b(body, digest_size=12).hexdigest()
    return tagged(request, body, media_type="application/json", tag=tag, stamp=stamp)


def tagged(
    request: Request,
    body: bytes,
    *,
    media_type: str,
    tag: str,
    stamp: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An answer that browsers keep: for a day where the address names the ``stamp``, else they ask each time."""
    etag = f'"{tag}"'
    kept = stamp is not None and request.query_params.get("v") == stamp
    told = {"etag": etag, "cache-control": _KEPT if kept else _ASKED_EACH_TIME, **(headers or {})}
    if not_changed(request, etag):
        return Response(None, 304, told)
    return Response(body, 200, told, media_type=media_type)


def not_changed(request: Request, etag: str) -> bool:
    """Whether the browser has what it asks for."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return etag in given or given == ["*"]


def whole_number(request: Request, name: str, *, low: int, high: int, default: int | None = None) -> int:
    """A whole number of the query.

    Raises:
        RefusedError: it is missing, no number, or beyond the bounds.
    """
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if (
        text is None
        or not (text.isascii() and text.isdigit() and len(text) < 12)
        or not low <= int(text) <= high
    ):
        raise RefusedError(400, "bad_request", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def number(request: Request, name: str) -> float:
    """A number of the query.

    Raises:
        RefusedError: it is missing or no number.
    """
    try:
        return float(request.query_params.get(name, ""))
    except ValueError:
        raise RefusedError(400, "bad_request", f"{name} must be a number") from None
