"""What stands before every route: who may ask, from where, and what every answer says to the browser.

One middleware before all routes, so that no route can be forgotten. The threats: a web page that the user visits and
that asks this server (Host, Origin and Fetch metadata are looked at, and nothing is ever allowed to other origins); a
name that is made to point here (DNS rebinding: only known names); others on the network or the machine (a token).
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: Methods that change nothing.
_READS = frozenset({"GET", "HEAD"})
_METHODS = _READS | {"PUT"}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:",
        "connect-src 'self'", "worker-src 'self' blob:", "object-src 'none'", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'",
    )
)  # fmt: skip
_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")
#: Takes the place of the token in the address: the browser goes on to the page by itself, now with the cookie.
_ENTRANCE = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">'
    b"<title>wsi-vmamba</title><p>Opening the viewer.</p></html>"
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        names: names under which the server may be asked, in lower case.
        any_address: whether it may also be asked under any numeric address; those cannot be made to point elsewhere.
        token: what has to be known; None where nothing has.
        cookie: name of the cookie that carries the token.
    """

    names: frozenset[str]
    any_address: bool = False
    token: str | None = None
    cookie: str = "wsi_vmamba"


def access_for(
    host: str,
    *,
    port: int,
    extra_names: Iterable[str] = (),
    machine_names: Iterable[str] = (),
    with_token: bool = False,
) -> Access:
    """Who may ask a server that listens on ``host``; beyond this machine nobody without the token."""
    is_local = is_loopback(host)
    names = {*LOOPBACK_NAMES, *(name.lower() for name in extra_names)}
    if not is_local:
        names |= {host.lower(), *(name.lower() for name in machine_names)}
    return Access(
        names=frozenset(names),
        any_address=not is_local,
        token=secrets.token_urlsafe(32) if with_token or not is_local else None,
        cookie=f"wsi_vmamba_{port}",
    )


def is_loopback(host: str) -> bool:
    """Whether a server that listens there can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        """Stand before ``app``."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the request through and add the headers to its answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        sender = _with_headers(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if _repeated(scope["headers"], b"host"):
            await _refuse(sender, 400, "bad_request", "two Host headers")
            return
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(sender, *refusal)
            return
        if self._access.token is not None and not self._has_cookie(headers):
            if scope["path"] == "/" and scope["method"] in _READS and self._has_token(scope):
                await _send(sender, 200, _ENTRANCE, b"text/html; charset=utf-8", self._set_cookie())
                return
            await _refuse(
                sender, 401, "no_token", "open the address that the command printed, with its token"
            )
            return
        await self._app(scope, receive, sender)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Status, code and words where a request is refused whoever asks."""
        if not self._is_known(headers.get("host", "")):
            return 403, "forbidden_host", "this server is not asked under that name; see --allow-host"
        if scope["method"] not in _METHODS:
            return 405, "method_not_allowed", "only GET, HEAD and PUT"
        if scope["method"] not in _READS:
            if not _is_own_origin(headers) or headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "forbidden_origin", "only the viewer's own page may change anything"
        elif headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} and not _opens_page(
            scope, headers
        ):
            return 403, "forbidden_origin", "only the viewer's own page may ask for this"
        return None

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower().rstrip(".")
        if name in self._access.names:
            return True
        if not self._access.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_cookie(self, headers: Mapping[str, str]) -> bool:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._access.cookie)
        except CookieError:
            return False
        return morsel is not None and self._is_token(morsel.value)

    def _has_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and self._is_token(given[0])

    def _is_token(self, given: str) -> bool:
        assert self._access.token is not None
        return hmac.compare_digest(given.encode(errors="replace"), self._access.token.encode())

    def _set_cookie(self) -> tuple[tuple[bytes, bytes], ...]:
        value = f"{self._access.cookie}={self._access.token}; Path=/; HttpOnly; SameSite=Strict"
        return ((b"set-cookie", value.encode()),)


def _is_own_origin(headers: Mapping[str, str]) -> bool:
    """Whether a page of this very server asks; browsers always say of a write where it comes from."""
    origin = headers.get("origin", "")
    scheme, _, netloc = origin.partition("://")
    return scheme in {"http", "https"} and netloc.lower() == headers.get("host", "").lower()


def _opens_page(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether somebody follows a link to the viewer from elsewhere."""
    return (
        scope["path"] == "/"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _repeated(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    return sum(each == name for each, _ in headers) > 1


def _with_headers(send: Send) -> Send:
    """A `send` that adds what every answer says."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sender


def error_body(code: str, message: str) -> bytes:
    """The JSON of an error."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    await _send(send, status, error_body(code, message), b"application/json")


async def _send(
    send: Send, status: int, body: bytes, kind: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    start = [
        (b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store"), *headers
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
