"""A web server on this machine for tests: serves a folder, with the faults that it is asked for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class WebServer(ThreadingHTTPServer):
    """Serves ``folder``.

    Attributes:
        ranges: whether requests for a part of a file get that part, or all of it as from the simplest servers.
        missing: what is answered where there is no file; some answer 403, to tell nobody what there is.
        fail: (pattern, status) for paths that are refused, or None.
        hang_s: how long each request waits.
        asked: paths asked for, in order.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True
        self.missing = 404
        self.fail: tuple[str, int] | None = None
        self.hang_s = 0.0
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def _answer(self, *, send_body: bool) -> None:
        server = self.server
        server.asked.append(self.path)
        path = urlsplit(self.path).path  # a proxy is asked for whole URLs
        time.sleep(server.hang_s)
        file = server.folder / path.lstrip("/")
        status, content = 200, b""
        if server.fail and re.search(server.fail[0], path):
            status = server.fail[1]
        elif not file.is_file():
            status = server.missing
        else:
            content = file.read_bytes()
        size, first = len(content), 0
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if status == 200 and part and server.ranges:
            status, first = 206, int(part[1]) if part[1] else size - int(part[2])
            content = content[first : int(part[2]) + 1 if part[1] and part[2] else size]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}")
        self.end_headers()
        if send_body:
            with suppress(OSError):  # who waited too long has gone
                self.wfile.write(content)


@contextmanager
def serve_folder(folder: Path) -> Iterator[WebServer]:
    server = WebServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
