"""The viewer over HTTP, with OpenSlide's DeepZoom beside it in the same run: how long a tile takes, how many a second.

    python benchmarks/viewer.py SLIDE... --json result.json
    python benchmarks/viewer.py SLIDE... --seconds 600      # is its memory the same after ten minutes?
    python benchmarks/viewer.py --large /tmp/slides         # when the first picture of 6 gigapixels comes

On a machine that others use, compare the processor's time that the server took, which is printed beside: how long one
waited says little there.

The server is the command, in a process of its own; the clients are a few lines over plain sockets in two further
processes, and share the cores with it. DeepZoom makes its tiles in one process, without a server: what it would cost
to send them is not counted. The two slides of 6 gigapixels, one with small levels and one without, are made in their
folder on first use (0.9 GB each) and kept.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil
from support.repeated_slide import LARGE_PX, made_slide
from support.viewed import Client, Viewed, cpu_s, tile_url, viewed

CLIENTS, WARM_TILES, WALK_TILES = 20, 400, 6
#: How often memory is looked at while the clients pan.
LOOKS = 10
Row = tuple[str, str, str]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print one table, and write the JSON where asked."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.slides and options.large is None:
        parser.error("give slides, a folder for --large, or both")
    result: dict[str, Any] = {}
    rows: list[Row] = [("", "viewer", "OpenSlide DeepZoom")]
    if options.slides:
        result |= _of_slides(options.slides, options.seconds)
        rows += _slide_rows(result)
    if options.large is not None:
        result["large"] = _of_large(options.large)
        rows += _large_rows(result["large"])
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(part.ljust(width) for part, width in zip(row, widths, strict=True)).rstrip())
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _of_slides(slides: list[Path], seconds: float) -> dict[str, Any]:
    """Tiles, panning and memory of slides of one folder."""
    result: dict[str, Any] = {"slides": [str(slide) for slide in slides]}
    with viewed(slides[0].parent if len(slides) > 1 else slides[0], slides) as server:
        result["first_picture"] = _first_picture(server)
        result["warm"] = _warm(Client(server.port), server.pages[0], server.process)
        result["panning"] = _panning(server, seconds)
    result["openslide"] = _openslide(slides[0], min(seconds, 20))
    return result


def _of_large(folder: Path) -> dict[str, Any]:
    """From the command to the first picture of 6 gigapixels; the files lie in memory, so disks do not count."""
    found = {}
    for name, factors in (("large", (1, 4, 16)), ("large-one-level", (1,))):
        slide = made_slide(folder, name, LARGE_PX, factors=factors)
        with slide.open("rb") as file:
            while file.read(1 << 24):
                pass
        with viewed(slide, [slide]) as server:
            found[name] = _first_picture(server)
    return found


def _first_picture(server: Viewed) -> dict[str, float]:
    return {"wall_s": server.first_s, "cpu_s": server.first_cpu_s}


def _places(page: dict[str, Any], count: int, generator: random.Random) -> list[tuple[int, int, int]]:
    found = []
    for _ in range(count):
        level = generator.choice(page["levels"][: max(1, len(page["levels"]) - 2)])
        found.append(
            (level["level"], generator.randrange(level["columns"]), generator.randrange(level["rows"]))
        )
    return found


def _warm(client: Client, page: dict[str, Any], process: psutil.Process) -> dict[str, float]:
    """Milliseconds of tiles that were asked for before, one after the other."""
    places = _places(page, WARM_TILES, random.Random(0))
    for place in places:
        client.get(tile_url(page, *place))
    times, cpu_before = [], cpu_s(process)
    for place in places:
        before = time.perf_counter()
        client.get(tile_url(page, *place))
        times.append(1000 * (time.perf_counter() - before))
    return {**_spread(times), "cpu_ms": 1000 * (cpu_s(process) - cpu_before) / len(times)}


def _spread(times: list[float]) -> dict[str, float]:
    return {"median_ms": statistics.median(times), "p95_ms": sorted(times)[int(0.95 * len(times))]}


def _panning(server: Viewed, seconds: float) -> dict[str, Any]:
    """Tiles a second of clients that each walk over a slide, a few tiles at a time; the server's memory meanwhile."""
    cpu_before, memory_mb = cpu_s(server.process), [_memory_mb(server)]
    with ProcessPoolExecutor(2) as pool:
        halves = [pool.submit(_pan, server.port, server.pages, seconds, seed) for seed in range(2)]
        while wait(halves, timeout=seconds / LOOKS).not_done:
            memory_mb.append(_memory_mb(server))
        counts = [half.result() for half in halves]
    memory_mb.append(_memory_mb(server))
    tiles = sum(each[0] for each in counts)
    return {
        "tiles_per_s": tiles / seconds,
        "failures": sum(each[1] for each in counts),
        "cpu_ms": 1000 * (cpu_s(server.process) - cpu_before) / tiles,
        "memory_mb": memory_mb,
    }


def _memory_mb(server: Viewed) -> float:
    return float(server.process.memory_info().rss / 1e6)


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
                client.get(tile_url(page, level, min(about["columns"] - 1, column + step), row))
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


def _slide_rows(result: dict[str, Any]) -> list[Row]:
    warm, other, panning = result["warm"], result["openslide"], result["panning"]
    memory_mb = panning["memory_mb"]
    return [
        (
            "warm tile, median / p95",
            f"{warm['median_ms']:.1f} / {warm['p95_ms']:.1f} ms",
            f"{other['median_ms']:.1f} / {other['p95_ms']:.1f} ms",
        ),
        ("  processor time of the server", f"{warm['cpu_ms']:.2f} ms", ""),
        (
            f"{CLIENTS} clients panning",
            f"{panning['tiles_per_s']:.0f} tiles/s",
            f"{other['tiles_per_s']:.0f} tiles/s",
        ),
        ("  processor time of the server", f"{panning['cpu_ms']:.2f} ms a tile", ""),
        ("failures", f"{panning['failures']:.0f}", ""),
        ("memory before / after", f"{memory_mb[0]:.0f} / {memory_mb[-1]:.0f} MB", ""),
        ("  meanwhile", ", ".join(f"{each:.0f}" for each in memory_mb[1:-1]), ""),
        ("first picture after the command", _seconds(result["first_picture"]), ""),
    ]


def _large_rows(found: dict[str, Any]) -> list[Row]:
    return [
        ("first picture of 6 gigapixels", _seconds(found["large"]), ""),
        ("  without small levels", _seconds(found["large-one-level"]), ""),
    ]


def _seconds(measured: dict[str, float]) -> str:
    return f"{measured['wall_s']:.1f} s, {measured['cpu_s']:.1f} CPU-s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", nargs="*", type=Path, help="slides, all in one folder")
    parser.add_argument(
        "--large", type=Path, metavar="FOLDER", help="where the slides of 6 gigapixels are made"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the clients pan")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
