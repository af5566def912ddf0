"""The viewer over HTTP, with OpenSlide's DeepZoom beside it in the same run: how long a tile takes, how many a second.

    python benchmarks/viewer.py SLIDE... --json result.json
    python benchmarks/viewer.py SLIDE... --seconds 600      # is its memory the same after ten minutes?

On a machine that others use, compare the processor's time that the server took, which is printed beside: how long one
waited says little there.

The server is the command, in a process of its own; the clients are a few lines over plain sockets in two further
processes, and share the cores with it. DeepZoom makes its tiles in one process, without a server: what it would cost
to send them is not counted.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

CLIENTS, WARM_TILES, WALK_TILES = 20, 400, 6
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print one table, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    result: dict[str, Any] = {"slides": [str(slide) for slide in options.slides]}
    folder = options.slides[0].parent if len(options.slides) > 1 else options.slides[0]
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "wsi_vmamba", "view", str(folder), "--no-browser", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = _port_of(server)
        client = Client(port)
        names = {slide.name.partition(".")[0] for slide in options.slides}
        listed = [each for each in client.json("/slides")["slides"] if each["name"] in names]
        pages = [client.json(f"/slides/{each['id']}") for each in listed]
        first = pages[0]
        client.get(_url(first, len(first["levels"]) - 1, 0, 0))
        result["first_picture_s"] = time.perf_counter() - started
        process = psutil.Process(server.pid)
        result["first_picture_cpu_s"] = _cpu_s(process)
        result["warm"] = _warm(client, first, process)
        before, cpu_before = process.memory_info().rss, _cpu_s(process)
        result["panning"] = _panning(port, pages, options.seconds)
        tiles = result["panning"]["tiles_per_s"] * options.seconds
        result["panning"]["cpu_ms"] = 1000 * (_cpu_s(process) - cpu_before) / tiles
        result["memory_mb"] = {"before": before / 1e6, "after": process.memory_info().rss / 1e6}
    finally:
        server.terminate()
        server.wait(timeout=20)
    result["openslide"] = _openslide(options.slides[0], min(options.seconds, 20))
    _show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


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


def _url(page: dict[str, Any], level: int, column: int, row: int) -> str:
    text: str = page["tile_url"]
    return text.replace("{level}", str(level)).replace("{column}", str(column)).replace("{row}", str(row))


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


def _places(page: dict[str, Any], count: int, generator: random.Random) -> list[tuple[int, int, int]]:
    found = []
    for _ in range(count):
        level = generator.choice(page["levels"][: max(1, len(page["levels"]) - 2)])
        found.append(
            (level["level"], generator.randrange(level["columns"]), generator.randrange(level["rows"]))
        )
    return found


def _cpu_s(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _warm(client: Client, page: dict[str, Any], process: psutil.Process) -> dict[str, float]:
    """Milliseconds of tiles that were asked for before, one after the other."""
    places = _places(page, WARM_TILES, random.Random(0))
    for place in places:
        client.get(_url(page, *place))
    times, cpu_before = [], _cpu_s(process)
    for place in places:
        before = time.perf_counter()
        client.get(_url(page, *place))
        times.append(1000 * (time.perf_counter() - before))
    return {**_spread(times), "cpu_ms": 1000 * (_cpu_s(process) - cpu_before) / len(times)}


def _spread(times: list[float]) -> dict[str, float]:
    return {"median_ms": statistics.median(times), "p95_ms": sorted(times)[int(0.95 * len(times))]}


def _panning(port: int, pages: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Tiles a second of clients that each walk over a slide, a few tiles at a time."""
    with ProcessPoolExecutor(2) as pool:
        halves = [pool.submit(_pan, port, pages, seconds, seed) for seed in range(2)]
        counts = [half.result() for half in halves]
    return {
        "tiles_per_s": sum(each[0] for each in counts) / seconds,
        "failures": sum(each[1] for each in counts),
    }


def _pan(port: int, pages: list[dict[str, Any]], seconds: float, seed: int) -> tuple[int, int]:
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(CLIENTS // 2) as pool:
        walks = [
            pool.submit(_walk, port, pages[n % len(pages)], end, 100 * seed + n) for n in range(CLIENTS // 2)
        ]
        found = [walk.result() for walk in walks]
    return sum(each[0] for each in found), sum(each[1] for each in found)


def _walk(port: int, page: dict[str, Any], end: float, seed: int) -> tuple[int, int]:
    """Tiles that one client got, and failures."""
    generator, client, count = random.Random(seed), Client(port), 0
    try:
        while time.monotonic() < end:
            level, column, row = _places(page, 1, generator)[0]
            about = page["levels"][level]
            for step in range(WALK_TILES):
                client.get(_url(page, level, min(about["columns"] - 1, column + step), row))
                count += 1
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return count, 1
    return count, 0


def _openslide(slide: Path, seconds: float) -> dict[str, Any]:
    """The same with OpenSlide's DeepZoom: one thread, then as many as there are clients."""
    import openslide
    from openslide.deepzoom import DeepZoomGenerator

    generator = DeepZoomGenerator(openslide.OpenSlide(str(slide)), tile_size=254, overlap=1)
    deepest = generator.level_count - 1

    def make(rng: random.Random) -> None:
        level = rng.randrange(deepest - 3, deepest + 1)
        columns, rows = generator.level_tiles[level]
        picture = generator.get_tile(level, (rng.randrange(columns), rng.randrange(rows)))
        picture.save(io.BytesIO(), "jpeg", quality=75)

    rng, times = random.Random(0), []
    for _ in range(200):
        before = time.perf_counter()
        make(rng)
        times.append(1000 * (time.perf_counter() - before))
    end, counts = time.monotonic() + seconds, [0] * CLIENTS

    def work(number: int) -> None:
        mine = random.Random(number)
        while time.monotonic() < end:
            make(mine)
            counts[number] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    return {**_spread(times), "tiles_per_s": sum(counts) / seconds}


def _show(result: dict[str, Any]) -> None:
    warm, other = result["warm"], result["openslide"]
    rows = [
        ("", "viewer", "OpenSlide DeepZoom"),
        (
            "warm tile, median / p95",
            f"{warm['median_ms']:.1f} / {warm['p95_ms']:.1f} ms",
            f"{other['median_ms']:.1f} / {other['p95_ms']:.1f} ms",
        ),
        ("  processor time of the server", f"{warm['cpu_ms']:.2f} ms", ""),
        (
            f"{CLIENTS} clients panning",
            f"{result['panning']['tiles_per_s']:.0f} tiles/s",
            f"{other['tiles_per_s']:.0f} tiles/s",
        ),
        ("  processor time of the server", f"{result['panning']['cpu_ms']:.2f} ms a tile", ""),
        ("failures", f"{result['panning']['failures']:.0f}", ""),
        ("memory before / after", "{before:.0f} / {after:.0f} MB".format(**result["memory_mb"]), ""),
        ("first picture after the command", f"{result['first_picture_s']:.1f} s", ""),
        ("  processor time of the server", f"{result['first_picture_cpu_s']:.1f} s", ""),
    ]
    for row in rows:
        print("  ".join(part.ljust(width) for part, width in zip(row, (32, 20, 20), strict=True)).rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", nargs="+", type=Path, help="slides, all in one folder")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the clients pan")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
