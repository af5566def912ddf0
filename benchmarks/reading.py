"""Reading: the native reader against openslide-python, what the pipeline adds to it, and whether memory grows.

    python benchmarks/reading.py --folder /tmp/slides --json result.json
    python benchmarks/reading.py --folder /tmp/slides --skip growth     # without the slide of 6 gigapixels

Slides are made in the folder on first use (0.1, 0.1 and 0.9 GB) and kept. Every figure comes from a fresh process, so
peaks of memory are its own; the file is read once before, so disks do not count. The two readers take turns and
the smallest of each is taken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.repeated_slide import LARGE_PX, made_slide

REGION_PX, READ_PX = 10_000, 256
#: (width, height) of the slides in pixels: 0.4, 0.5 and 6.0 gigapixels. The last two are 5 and 60 regions of one size,
#: 9,984 px, so that only the number of regions tells them apart.
SIZES_PX = {"compare": (20_000, 20_000), "small": (5 * 9_984, 9_984), "large": LARGE_PX}
#: Corners of the regions read; the last lies on no tile's corner.
REGIONS = ((0, 0), (10_000, 0), (4_321, 7_654))
#: The square that the small reads cover.
WINDOW_PX = 5_120
PARTS = ("regions", "grid", "shuffled", "pipeline", "growth")
Read = Callable[[int, int, int], NDArray[np.uint8]]
Row = tuple[str, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.slide, *options.arguments)))
        return 0
    wanted = [part for part in PARTS if part not in options.skip]
    result: dict[str, Any] = {}
    for part in wanted:
        result[part] = {"pipeline": _pipeline, "growth": _growth}.get(part, _against_openslide)(
            part, options.folder, options.turns
        )
    rows = [row for part in wanted for row in ROWS[part](part, result[part])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(patch.ljust(width) for patch, width in zip(row, widths, strict=True)).rstrip())
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


# -- what is measured, each in a process of its own ---------------------------------------------------------------


def measure_reads(slide: str, part: str, reader: str) -> dict[str, Any]:
    """CPU and wall seconds of the requests of a part with one reader, peak memory, and a hash of the pixels."""
    read = _open(slide, reader)
    read(0, 0, 64)
    digest = hashlib.sha256()
    wall = cpu = 0.0
    count = 0
    for x, y, side in _requests(part):
        started = time.perf_counter(), time.process_time()
        pixels = read(x, y, side)
        wall += time.perf_counter() - started[0]
        cpu += time.process_time() - started[1]
        count += 1
        digest.update(pixels[:: max(1, side // 256)].tobytes())
        del pixels  # before the next is made
    return {
        "reads": count,
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_bytes": _peak_bytes(),
        "sha256": digest.hexdigest(),
    }


def _requests(part: str) -> Iterator[tuple[int, int, int]]:
    if part == "regions":
        yield from ((x, y, REGION_PX) for x, y in REGIONS)
        return
    places = [(x, y) for y in range(0, WINDOW_PX, READ_PX) for x in range(0, WINDOW_PX, READ_PX)]
    if part == "shuffled":
        random.Random(0).shuffle(places)
    yield from ((x, y, READ_PX) for x, y in places)


def _open(slide: str, reader: str) -> Read:
    if reader == "openslide":
        import openslide

        peer = openslide.OpenSlide(slide)
        return lambda x, y, side: np.asarray(peer.read_region((x, y), 0, (side, side)).convert("RGB"))
    from wsi_vmamba.slide import open_slide

    ours = open_slide(slide, reader="tiff")
    return lambda x, y, side: ours.read_region(x_l0=x, y_l0=y, level=0, width_px=side, height_px=side)


def measure_decoding(slide: str) -> dict[str, Any]:
    """Seconds of planning a slide and reading every region of the plan, with nothing done to the pixels."""
    from wsi_vmamba.extraction.planning import plan_slide
    from wsi_vmamba.slide import open_slide, resolve_mpp
    from wsi_vmamba.stream import stream_regions

    started = time.perf_counter(), time.process_time()
    with open_slide(slide) as opened:
        _, plan = plan_slide(_config(slide, "null", "unused"), opened, resolve_mpp(opened))
        for _ in stream_regions(opened, plan):
            pass
    return {
        "wall_s": time.perf_counter() - started[0],
        "cpu_s": time.process_time() - started[1],
        "peak_bytes": _peak_bytes(),
    }


def measure_extraction(slide: str, backbone: str) -> dict[str, Any]:
    """Seconds of extracting a slide whole, what part the encoder waited for pixels, and peak memory."""
    from wsi_vmamba.extraction.encoders import load_encoder
    from wsi_vmamba.extraction.one_slide import extract_slide
    from wsi_vmamba.extraction.sources import find_sources

    with tempfile.TemporaryDirectory() as folder:
        config = _config(slide, backbone, folder)
        encoder = load_encoder(config)
        (source,) = find_sources(slide)
        started = time.perf_counter(), time.process_time()
        outcome = extract_slide(config, source, encoder)
        cpu_s = time.process_time() - started[1]
        wall_s = time.perf_counter() - started[0]
    if outcome.failed:
        raise SystemExit(f"{slide}: {outcome.detail}")
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "decode_s": outcome.decode_s,
        "wait_s": outcome.wait_s,
        "stream_s": outcome.stream_s,
        "patches": outcome.patches,
        "peak_bytes": _peak_bytes(),
    }


def _config(slide: str, backbone: str, out: str) -> Any:
    from wsi_vmamba.config import ExtractConfig

    return ExtractConfig(slides=slide, out=out, backbone=backbone, segmenter="all")


def _peak_bytes() -> int:
    from wsi_vmamba.inference.memory import peak_resident_bytes

    return peak_resident_bytes()


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "reads": measure_reads,
    "decoding": measure_decoding,
    "extraction": measure_extraction,
}


# -- what is compared ---------------------------------------------------------------------------------------------


def _against_openslide(part: str, folder: Path, turns: int) -> dict[str, Any]:
    slide = made_slide(folder, "compare", SIZES_PX["compare"])
    ours, theirs = _best_of(turns, ("reads", slide, part, "native"), ("reads", slide, part, "openslide"))
    return {
        "native": ours,
        "openslide": theirs,
        "cpu_ratio": theirs["cpu_s"] / ours["cpu_s"],
        "same_pixels": ours["sha256"] == theirs["sha256"],
    }


def _pipeline(_: str, folder: Path, turns: int) -> dict[str, Any]:
    slide = made_slide(folder, "small", SIZES_PX["small"])
    bare, null = _best_of(turns, ("decoding", slide), ("extraction", slide, "null"))
    (pico,) = _best_of(1, ("extraction", slide, "vmamba_pico"))
    return {
        "decoding": bare,
        "null": null,
        "pico": pico,
        "null_cpu_over_decoding": null["cpu_s"] / bare["cpu_s"],
        "pico_encoder_waits": pico["wait_s"] / pico["stream_s"],
        "pico_decoding_waits": 1 - pico["decode_s"] / pico["stream_s"],
    }


def _growth(_: str, folder: Path, __: int) -> dict[str, Any]:
    small, large = (
        _best_of(1, ("extraction", made_slide(folder, name, SIZES_PX[name]), "null"))[0]
        for name in ("small", "large")
    )
    return {"small": small, "large": large, "growth": large["peak_bytes"] / small["peak_bytes"] - 1}


def _best_of(turns: int, *calls: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Run each call ``turns`` times, in turns; of each, the run of the least CPU time."""
    runs = [[_in_a_process(*call) for call in calls] for _ in range(turns)]
    return [min(same, key=lambda run: float(run["cpu_s"])) for same in zip(*runs, strict=True)]


def _in_a_process(measure: str, slide: Path, *arguments: str) -> dict[str, Any]:
    with slide.open("rb") as file:
        while file.read(1 << 24):
            pass
    command = [sys.executable, __file__, "--measure", measure, "--slide", str(slide), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


# -- what is printed ----------------------------------------------------------------------------------------------


def _reading_rows(part: str, found: dict[str, Any]) -> list[Row]:
    title = {
        "regions": f"regions of {REGION_PX} x {REGION_PX} px",
        "grid": f"reads of {READ_PX} px, row by row",
        "shuffled": f"reads of {READ_PX} px, in random order",
    }[part]
    return [
        *(
            (
                f"{title}, {name}",
                f"{found[name]['cpu_s'] / found[name]['reads'] * 1e3:.2f} CPU-ms each",
                _gb(found[name]),
            )
            for name in ("native", "openslide")
        ),
        ("", f"{found['cpu_ratio']:.1f} times", "same pixels" if found["same_pixels"] else "OTHER PIXELS"),
    ]


def _pipeline_rows(_: str, found: dict[str, Any]) -> list[Row]:
    return [
        *(
            (title, f"{found[key]['wall_s']:.2f} s, {found[key]['cpu_s']:.2f} CPU-s", _gb(found[key]))
            for title, key in (
                ("planning and decoding a slide of 0.5 Gpx", "decoding"),
                ("extracting it, null encoder", "null"),
                ("extracting it, vmamba_pico", "pico"),
            )
        ),
        ("the null encoder's over decoding's", f"{found['null_cpu_over_decoding']:.2f} times the CPU-s", ""),
        ("vmamba_pico waits for pixels", f"{found['pico_encoder_waits']:.1%} of the time", ""),
        ("decoding waits for vmamba_pico", f"{found['pico_decoding_waits']:.1%} of the time", ""),
    ]


def _growth_rows(_: str, found: dict[str, Any]) -> list[Row]:
    return [
        *(
            (f"extracting {size} Gpx, null encoder", f"{found[key]['wall_s']:.1f} s", _gb(found[key]))
            for size, key in (("0.5", "small"), ("6", "large"))
        ),
        ("growth of the peak", f"{found['growth']:+.1%}", ""),
    ]


def _gb(measured: dict[str, Any]) -> str:
    return f"peak {measured['peak_bytes'] / 1e9:.2f} GB"


ROWS: dict[str, Callable[[str, dict[str, Any]], list[Row]]] = {
    "regions": _reading_rows,
    "grid": _reading_rows,
    "shuffled": _reading_rows,
    "pipeline": _pipeline_rows,
    "growth": _growth_rows,
}


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("reading-slides"), help="where slides are made")
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=[], help="parts to leave out")
    parser.add_argument("--turns", type=int, default=3, help="how often each reader has its turn")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here too")
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--slide", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
