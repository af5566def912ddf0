"""Time, memory and rate of encoding one region on the CPU, against the matmul rate of the same machine.

    python benchmarks/region.py --model vmamba_tiny_s1l8 --px 10000 --precision bf16 --json result.json
    python benchmarks/region.py --model vmamba_tiny_s1l8 --px 1024 --precision fp32 --peer official-like
    python benchmarks/region.py --model vmamba_tiny_s1l8 --precision bf16 --slope 1024,2048,4096,10000

The first form reports one region, and with ``--times`` the same again: the first of a process meets fresh memory, the
later ones are what a long run meets; ``--peer`` times another way through the same pixels in the same run; ``--slope``
encodes several sizes and fits the exponent of time against pixels. The regions are noise from a fixed seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba import __version__
from wsi_vmamba.encode import StripEncoder, WholeMapEncoder, build_encoder
from wsi_vmamba.inference.linear import PackedLinear
from wsi_vmamba.inference.memory import peak_resident_bytes
from wsi_vmamba.inference.plan import stage_shapes
from wsi_vmamba.inference.workers import Workers
from wsi_vmamba.model import BACKBONES, VMambaConfig, build_backbone
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.ops import cpu, ss2d_scan

#: Peer -> its name in timm; "official-like" is our plain model with the scan as a loop in torch, "unfused" our strip
#: encoder with norms, matmuls and convolutions one after the other, as it was before they were fused.
PEERS = {
    "official-like": None,
    "unfused": None,
    "swin": "swin_tiny_patch4_window7_224",
    "convnext": "convnext_tiny",
    "resnet152": "resnet152",
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    encoder = build_encoder(options.model, weights="random", precision=options.precision, device="cpu")
    if not isinstance(encoder, StripEncoder):
        print(f"the strip encoder is not available: {cpu.why}", file=sys.stderr)
        return 1
    sizes = options.slope or [options.px]
    result: dict[str, Any] = {
        "regions": [measure(encoder, px, options) for px in sizes],
        "versions": _versions(),
    }
    if options.slope:
        result["slope"] = fit_slope(result["regions"])
    if options.peer:
        result["peer"] = measure_peer(options.peer, encoder, options)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measure(encoder: StripEncoder, px: int, options: argparse.Namespace) -> dict[str, Any]:
    """Encode one region of ``px`` x ``px`` after a small one that warms up; see the keys for what is reported."""
    forward = encoder.forward
    pixels = noise(px)
    encoder.encode(pixels[:256, :256])
    forward.profile.cpu_seconds.clear()
    before = matmul_rate(_DTYPES[options.precision], options.threads)
    features, seconds, cpu_seconds = _timed(encoder.encode, pixels)
    operators = sorted(forward.profile.cpu_seconds.items(), key=lambda item: -item[1])
    later = [_timed(encoder.encode, pixels)[1:] for _ in range(options.times - 1)]
    after = matmul_rate(_DTYPES[options.precision], options.threads)
    flop = matmul_flop(forward.config, px)
    rate, cpu_rate = ((before[i] + after[i]) / 2 for i in range(2))
    return {
        "model": options.model,
        "px": px,
        "precision": options.precision,
        "threads": options.threads,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "peak_rss_bytes": peak_resident_bytes(),
        "planned_bytes": forward.plan(height_px=px, width_px=px).total_bytes,
        "tera_flop": round(flop / 1e12, 4),
        "gflops_reached": round(flop / seconds / 1e9, 1),
        "matmul_gflops": [round(before[0] / 1e9, 1), round(after[0] / 1e9, 1)],
        "times_the_matmul_floor": round(seconds * rate / flop, 3),
        "cpu_times_the_matmul_floor": round(cpu_seconds * cpu_rate / flop, 3),
        "operator_share": {name: round(spent / cpu_seconds, 4) for name, spent in operators},
        **({"later": _least(later, floors_per_second=cpu_rate / flop)} if later else {}),
        "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
        "features_mean_abs": float(np.abs(features).mean()),
    }


def _least(times: list[tuple[float, float]], *, floors_per_second: float) -> dict[str, float]:
    """The least wall and CPU seconds of several regions, and how many times the floor the latter are."""
    seconds, cpu_seconds = map(min, zip(*times, strict=True))
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "cpu_times_the_matmul_floor": round(cpu_seconds * floors_per_second, 3),
    }


def measure_peer(peer: str, encoder: StripEncoder, options: argparse.Namespace) -> dict[str, Any]:
    """Time a peer and ours in turns on the same region, the smallest of each taken."""
    try:
        other = _peer(peer, options)
    except ImportError as error:
        return {"peer": peer, "skipped": f"needs the timm extra: {error}"}
    pixels = noise(options.px)
    ours, theirs = [], []
    for _ in range(1 if peer == "official-like" else 3):
        ours.append(_timed(encoder.encode, pixels)[1:])
        theirs.append(_timed(other, pixels)[1:])
    (seconds, cpu), (their_seconds, their_cpu) = (
        map(min, zip(*times, strict=True)) for times in (ours, theirs)
    )
    return {
        "peer": peer,
        "px": options.px,
        "seconds": round(their_seconds, 3),
        "our_seconds": round(seconds, 3),
        "times_faster": round(their_seconds / seconds, 2),
        "times_less_cpu": round(their_cpu / cpu, 2),
    }


def fit_slope(regions: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of time (wall and CPU) against pixels, by least squares in logarithms; 1 is linear."""
    pixels = np.log([region["px"] ** 2 for region in regions])
    return {
        key: round(float(np.polyfit(pixels, np.log([region[key] for region in regions]), 1)[0]), 4)
        for key in ("seconds", "cpu_seconds")
    }


def matmul_rate(dtype: torch.dtype, threads: int, side: int = 2048) -> tuple[float, float]:
    """Floating-point operations per second, of all threads, and per CPU second, of packed square matmuls."""
    layer = PackedLinear(torch.randn(side, side), None, dtype=dtype)
    x = torch.randn(side, side).to(dtype)

    def work(repeats: int) -> None:
        for _ in range(repeats):
            layer(x)

    with Workers(threads) as workers:
        workers.run([partial(work, 1)] * threads)
        _, seconds, cpu_seconds = _timed(workers.run, [partial(work, 8)] * threads)
    flop = threads * 8 * 2 * side**3
    return flop / seconds, flop / cpu_seconds


def matmul_flop(config: VMambaConfig, px: int) -> float:
    """Operations of all matmuls (dt_proj too) and dense convolutions of a region, a multiply-add counted as two."""
    macs = 0
    shapes = stage_shapes(config, height_px=px, width_px=px)
    for i, (height, width) in enumerate(shapes):
        d_model, inner = config.dims[i], config.d_inner(i)
        projected = 4 * (config.dt_rank(i) + 2 * config.d_state)
        hidden = int(config.mlp_ratio * d_model)
        block = (
            d_model * inner * (2 + config.gated)
            + inner * (projected + 4 * config.dt_rank(i))
            + 2 * d_model * hidden
        )
        macs += height * width * config.depths[i] * block
        if i > 0:
            taps = 9 if config.downsample == 3 else 4
            macs += height * width * taps * config.dims[i - 1] * d_model
    height, width = shapes[0]
    half = config.dims[0] // 2
    stem = 48 * config.dims[0] if config.patch_embed == 1 else 4 * 27 * half + 9 * half * config.dims[0]
    return 2.0 * (macs + height * width * stem)


def noise(px: int) -> NDArray[np.uint8]:
    """RGB noise of a fixed seed."""
    return np.random.default_rng(0).integers(0, 256, (px, px, 3), dtype=np.uint8)


def _peer(peer: str, options: argparse.Namespace) -> Encode:
    name = PEERS[peer]
    if peer == "unfused":
        with mock.patch("wsi_vmamba.ops.tokens.suits", return_value=False):
            return build_encoder(
                options.model, weights="random", precision=options.precision, device="cpu"
            ).encode
    if name is None:
        plain = WholeMapEncoder(
            options.model, build_backbone(options.model), precision=options.precision, device="cpu"
        )
        reference = partial(ss2d_scan, backend="reference")

        def encode(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            with mock.patch("wsi_vmamba.model.ss2d.ss2d_scan", reference):
                return plain.encode(pixels)

        return encode
    import timm

    side_px = -(-options.px // 224) * 224 if peer == "swin" else options.px
    extra = {"img_size": side_px} if peer == "swin" else {}
    model = timm.create_model(name, num_classes=0, **extra).eval().to(memory_format=torch.channels_last)

    def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5
        image = torch.nn.functional.pad(image, (0, side_px - options.px, 0, side_px - options.px))
        low = options.precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            features: NDArray[np.float32] = model.forward_features(image).float().numpy()
            return features

    return forward


def _timed(call: Callable[[Any], Any], argument: Any) -> tuple[Any, float, float]:
    """What the call returns, its wall seconds and the CPU seconds of the process meanwhile."""
    wall, used = time.perf_counter(), time.process_time()
    result = call(argument)
    return result, time.perf_counter() - wall, time.process_time() - used


def _versions() -> dict[str, str]:
    return {"wsi_vmamba": __version__, "torch": torch.__version__, "kernels": cpu.isa}


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if len(sizes) < 2 or any(math.gcd(size, 2) != 2 for size in sizes):
        raise argparse.ArgumentTypeError("give at least two even sizes, as in 1024,2048,4096")
    return sizes


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least once")
    return count


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name in BACKBONES if name in VARIANTS]
    parser.add_argument("--model", choices=names, default="vmamba_tiny_s1l8")
    parser.add_argument("--px", type=int, default=1024, help="side of the region")
    parser.add_argument("--precision", choices=list(_DTYPES), default="fp32")
    parser.add_argument("--peer", choices=list(PEERS), help="also time this on the same pixels")
    parser.add_argument(
        "--slope", type=_sizes, metavar="PX,PX,...", help="encode these sizes and fit the growth"
    )
    parser.add_argument("--times", type=_count, default=1, help="how often each region is encoded")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
