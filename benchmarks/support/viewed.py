"""The viewer as a process of its own, and a client of it over a plain socket."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/")


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = port

    def get(self, path: str) -> bytes:
        """The body of an answer; anything but 200 ends the measurement."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head[:60]!r}")
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert found is not None
        parts, missing = [body], int(found[1]) - len(body)
        while missing > 0:
            parts.append(self._more())
            missing -= len(parts[-1])
        return b"".join(parts)

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 17)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data

    def json(self, path: str) -> Any:
        """A JSON answer."""
        return json.loads(self.get(path))


@dataclass(frozen=True)
class Viewed:
    """A viewer that shows something.

    Attributes:
        process: of the server.
        port: where it answers.
        pages: what it says of each slide.
        first_s: seconds from the start of the command to the picture of the first slide.
        first_cpu_s: seconds of the processor that the server took until then.
    """

    process: psutil.Process
    port: int
    pages: list[dict[str, Any]]
    first_s: float
    first_cpu_s: float


@contextmanager
def viewed(target: Path, slides: list[Path]) -> Iterator[Viewed]:
    """Start the command on a slide or folder, get the first picture of the first slide, and end it afterwards."""
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "wsi_vmamba", "view", str(target), "--no-browser", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = _port_of(server)
        client = Client(port)
        names = {slide.name.partition(".")[0] for slide in slides}
        listed = [each for each in client.json("/slides")["slides"] if each["name"] in names]
        pages = [client.json(f"/slides/{each['id']}") for each in listed]
        client.get(tile_url(pages[0], len(pages[0]["levels"]) - 1, 0, 0))
        first_s, process = time.perf_counter() - started, psutil.Process(server.pid)
        yield Viewed(process, port, pages, first_s, cpu_s(process))
    finally:
        server.terminate()
        server.wait(timeout=20)


def tile_url(page: dict[str, Any], level: int, column: int, row: int) -> str:
    """Where a tile of a slide is."""
    text: str = page["tile_url"]
    return text.replace("{level}", str(level)).replace("{column}", str(column)).replace("{row}", str(row))


def cpu_s(process: psutil.Process) -> float:
    """Seconds of the processor that a process has taken."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _port_of(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    for line in server.stdout:
        found = _ADDRESS.search(line)
        if found:
            threading.Thread(target=server.stdout.read, daemon=True).start()
            port = int(found[1])
            _wait_for(port)
            return port
    raise RuntimeError("the server ended before it said where it is")


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            Client(port).get("/session")
        except (OSError, RuntimeError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server does not answer")
