"""Time, memory and disk of squares of any size in one pass with their map in files, against regions in memory.

    python benchmarks/whole_slide.py --model vmamba_pico --sides 5000,10000,20000 --scratch /data --json out.json
    python benchmarks/whole_slide.py --sides 20000 --picture tissue.png --scratch /data/scratch
    python benchmarks/whole_slide.py --sides 100000x65000 --only pass --scratch /data/scratch

Each square (or width x height) is a picture repeated (noise from a fixed seed, unless one is given), encoded twice,
each time in a process of its own: in one pass, and cut into regions of at most ``--region-px`` that are encoded in
memory. CPU time is what counts where other programs run beside; ``slope`` is the exponent of CPU time of the pass
against pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.encode import StripEncoder, build_encoder
from wsi_vmamba.inference.memory import peak_resident_bytes
from wsi_vmamba.inference.scratch import Scratch, open_scratch, require_space
from wsi_vmamba.model import BACKBONES
from wsi_vmamba.ops import cpu

_PICTURE_PX = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run each measurement in a process of its own, print, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    if not cpu.available:
        print(f"the strip encoder is not available: {cpu.why}", file=sys.stderr)
        return 1
    if options.part:
        print(json.dumps(_measure(options)))
        return 0
    squares = []
    for width, height in options.sides:
        parts = [options.only] if options.only else ["pass", "regions"]
        square: dict[str, Any] = {"width_px": width, "height_px": height}
        square |= {part: _in_process(options, part, f"{width}x{height}") for part in parts}
        if not options.only:
            square["cpu_ratio"] = square["pass"]["cpu_s"] / square["regions"]["cpu_s"]
        squares.append(square)
        print(json.dumps(squares[-1]), file=sys.stderr, flush=True)
    result = {
        "model": options.model,
        "precision": options.precision,
        "threads": options.threads,
        "squares": squares,
    }
    if len(squares) > 1 and options.only != "regions":
        result["slope"] = fit_slope(squares)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def fit_slope(squares: Sequence[dict[str, Any]]) -> float:
    """Exponent of the CPU time of the pass against pixels, by least squares of the logarithms."""
    pixels = [math.log(square["width_px"] * square["height_px"]) for square in squares]
    seconds = [math.log(square["pass"]["cpu_s"]) for square in squares]
    return float(np.polyfit(pixels, seconds, 1)[0])


class Repeated:
    """A picture repeated over a rectangle; rows are made as they are asked for."""

    def __init__(self, picture: NDArray[np.uint8], *, width_px: int, height_px: int) -> None:
        self.width, self.height = width_px, height_px
        self._picture = picture

    def advance(self, first: int, last: int) -> None:
        """Nothing has to be read."""

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows [first, last)."""
        return torch.from_numpy(self.square(y_px=first, x_px=0, height_px=last - first, width_px=self.width))

    def square(self, *, y_px: int, x_px: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
        """A rectangle of it."""
        rows = np.arange(y_px, y_px + height_px) % len(self._picture)
        columns = np.arange(x_px, x_px + width_px) % self._picture.shape[1]
        return self._picture[rows][:, columns]


def _in_process(options: argparse.Namespace, part: str, size: str) -> dict[str, Any]:
    words = ["--model", options.model, "--precision", options.precision, "--threads", str(options.threads)]
    words += ["--scratch", str(options.scratch), "--region-px", str(options.region_px)]
    words += ["--picture", str(options.picture)] if options.picture else []
    command = [sys.executable, __file__, *words, "--sides", size, "--part", part]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    encoder = build_encoder(options.model, weights="random", precision=options.precision, device="cpu")
    assert isinstance(encoder, StripEncoder)
    ((width, height),) = options.sides
    source = Repeated(_picture(options.picture), width_px=width, height_px=height)
    encoder.encode(source.square(y_px=0, x_px=0, height_px=256, width_px=256))  # load libraries
    began, began_cpu = time.perf_counter(), time.process_time()
    found = (_one_pass if options.part == "pass" else _regions)(encoder, source, options)
    return {
        "cpu_s": round(time.process_time() - began_cpu, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "peak_rss_gb": round(peak_resident_bytes() / 1e9, 3),
        **found,
    }


def _one_pass(encoder: StripEncoder, source: Repeated, options: argparse.Namespace) -> dict[str, Any]:
    scratch = open_scratch(options.scratch, "whole-slide-benchmark", {"at": time.time()}, say=print)
    try:
        planned = encoder.scratch_bytes(height_px=source.height, width_px=source.width)
        require_space(scratch, planned)
        watch = _DiskWatch(scratch)
        forward = encoder.forward.in_scratch(source, scratch, report=lambda share: None)
        rows = -(-source.height // encoder.stride_px)
        total = sum(float(forward.feature_rows(row, row + 1).sum()) for row in range(rows))
        assert math.isfinite(total)
        return {"disk_planned_gb": round(planned / 1e9, 3), "disk_peak_gb": round(watch.stop() / 1e9, 3)}
    finally:
        scratch.remove()


def _regions(encoder: StripEncoder, source: Repeated, options: argparse.Namespace) -> dict[str, Any]:
    def edges(length_px: int) -> list[int]:
        parts = -(-length_px // options.region_px)
        stride = encoder.stride_px
        return [length_px * i // parts // stride * stride for i in range(parts)] + [length_px]

    rows, columns = list(pairwise(edges(source.height))), list(pairwise(edges(source.width)))
    for top, bottom in rows:
        for left, right in columns:
            pixels = source.square(y_px=top, x_px=left, height_px=bottom - top, width_px=right - left)
            encoder.encode(pixels)
    return {"regions": len(rows) * len(columns)}


class _DiskWatch:
    """Looks at the size of a folder now and then."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self._peak = max(self._peak, self._scratch.held_bytes())

    def stop(self) -> int:
        """The largest size seen, bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak


def _picture(path: Path | None) -> NDArray[np.uint8]:
    if path is None:
        return np.random.default_rng(0).integers(0, 256, (_PICTURE_PX, _PICTURE_PX, 3), dtype=np.uint8)
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def _sizes(text: str) -> list[tuple[int, int]]:
    sizes = [[int(number) for number in size.split("x")] for size in text.split(",")]
    return [(size[0], size[-1]) for size in sizes]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(BACKBONES), default="vmamba_pico")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument(
        "--sides", type=_sizes, required=True, help="5000 or 100000x65000 (width x height), in commas"
    )
    parser.add_argument(
        "--only", choices=["pass", "regions"], help="one of the two (the other takes as long)"
    )
    parser.add_argument("--region-px", type=int, default=9984, help="longest side of the regions in memory")
    parser.add_argument("--picture", type=Path, help="what is repeated")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=["pass", "regions"], help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
