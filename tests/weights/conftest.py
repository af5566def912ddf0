"""A folder of the user's own, checkpoints of a small VMamba, and a web server that can break off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from torch import Tensor

from wsi_vmamba.model import build_backbone


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are kept during a test."""
    monkeypatch.setenv("WSI_VMAMBA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture(scope="session")
def pico() -> dict[str, Tensor]:
    """Weights of a `vmamba_pico` of three classes."""
    return dict(build_backbone("vmamba_pico", num_classes=3, seed=7).state_dict())


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], Path]:
    """Write a checkpoint as training programs do."""

    def save(content: object, name: str = "my model (best).pth.tar") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


class Web(ThreadingHTTPServer):
    """Serves files from memory.

    Attributes:
        files: path -> content.
        tag: ETag of all of them, or None.
        ranges: whether a part is sent where one is asked for.
        cut: how many bytes are sent before the connection breaks, for each request in turn; None: all.
        starts: where each answer began.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.tag: str | None = '"one/1"'
        self.ranges = True
        self.cut: list[int | None] = []
        self.starts: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def _answer(self, *, body: bool) -> None:
        content = self.server.files.get(unquote(self.path))
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range") if self.server.ranges else None
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        if body:
            self.server.starts.append(first)
            end = self.server.cut.pop(0) if self.server.cut else None
            with suppress(OSError):
                self.wfile.write(content[first : None if end is None else first + end])


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
