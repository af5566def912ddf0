"""Running the server: a socket of our own, so that what was asked for is what is bound, and an end at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from wsi_vmamba.errors import UsageError, WsiVmambaError

#: Connections that wait to be accepted.
_BACKLOG = 256


class PortTakenError(WsiVmambaError, OSError):
    """Another program listens on the port."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; with port 0 on any free port.

    Raises:
        PortTakenError: another program has the port.
        UsageError: there is no such address on this machine, or the port needs other rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: no such address ({error.strerror})") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} is taken, perhaps by another viewer; choose another --port, or --port 0 for any free one"
            ) from error
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror}); see --host and --port"
        ) from error
    return found


class _Server(uvicorn.Server):
    """A server that says when it is up, and does not wait for browsers that keep their connections open."""

    def __init__(
        self, config: uvicorn.Config, on_start: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start, self._on_end = on_start, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_end()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    on_start: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C, or until the process is told to end.

    Args:
        app: what answers.
        listening: a socket that listens.
        on_start: called when the server is up.
        on_end: called before the server waits for answers that are still being made.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=True, timeout_graceful_shutdown=1,
        timeout_keep_alive=30, ws="none", lifespan="on", proxy_headers=False, backlog=_BACKLOG,
    )  # fmt: skip
    _Server(config, on_start, on_end).run(sockets=[listening])
