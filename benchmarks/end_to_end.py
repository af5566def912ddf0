"""Peak memory and CPU time of the gradients of one region, in strips and with plain autograd.

    OMP_NUM_THREADS=1 python benchmarks/end_to_end.py [--model vmamba_pico] [--px 1024 2048 4096] [--plain-up-to 2048]

Each measurement is a process of its own: noise as pixels, features of all tokens, a loss in which each counts, and the
gradients of all parameters, in float32. Memory is the peak of the process less what it held before (interpreter,
torch, weights, pixels). Times are CPU seconds, because machines are shared,
and the least of ``--repeats``, which take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsi_vmamba.gradients.region import region_features
from wsi_vmamba.inference.memory import peak_resident_bytes, resident_bytes
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba

WAYS = ("strips", "plain")


def measure(way: str, model: str, side_px: int) -> dict[str, float]:
    """One step in this process: CPU seconds forwards and backwards, and peak bytes above those at the start."""
    backbone = build_backbone(model, seed=0)
    assert isinstance(backbone, VMamba)
    backbone.train()
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    held, began = resident_bytes(), time.process_time()
    features = region_features(backbone, pixels) if way == "strips" else _plain(backbone, pixels)
    forward = time.process_time()
    features.square().mean().backward()  # type: ignore[no-untyped-call]
    ended = time.process_time()
    return {
        "forward_s": forward - began,
        "backward_s": ended - forward,
        "peak_bytes": peak_resident_bytes() - held,
        "gradient": float(
            sum(p.grad.double().square().sum() for p in backbone.parameters() if p.grad is not None)
        ),
    }


def _plain(backbone: VMamba, pixels: np.ndarray) -> Tensor:
    image = normalise(torch.from_numpy(pixels)[None], mean=backbone.mean, std=backbone.std)
    return backbone.forward_features(image)


def in_own_process(way: str, model: str, side_px: int) -> dict[str, float]:
    """See `measure`."""
    command = [sys.executable, str(Path(__file__).resolve()), "--model", model, "--one", way, str(side_px)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print a row per side and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vmamba_pico")
    parser.add_argument("--px", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument(
        "--plain-up-to", type=int, default=2048, help="largest side that plain autograd is given"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PX"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], asked.model, int(asked.one[1]))))
        return
    print(f"{asked.model}, float32, {torch.get_num_threads()} thread(s)")
    print("   side  way        forward s  backward s  peak GB  |gradient|^2")
    for side_px in asked.px:
        ways = [way for way in WAYS if way == "strips" or side_px <= asked.plain_up_to]
        runs = [
            {way: in_own_process(way, asked.model, side_px) for way in ways} for _ in range(asked.repeats)
        ]
        for way in ways:
            least = {key: min(run[way][key] for run in runs) for key in runs[0][way]}
            print(
                f"{side_px:7}  {way:9}  {least['forward_s']:9.1f}  {least['backward_s']:10.1f}  "
                f"{least['peak_bytes'] / 1e9:7.2f}  {least['gradient']:.6g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
