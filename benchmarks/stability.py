"""How a VMamba trains when one thing is changed: step sizes at the start, A, clipping, warm-up, rate, arithmetic.

Each variation trains vmamba_pico on the painted task from random weights, for a few hundred steps and several seeds.
A table says how it ended: the mean loss of the last tenth, the largest norm of the gradient after the warm-up, and
what the guard said where it diverged. All variations of a seed see the same windows.

    OMP_NUM_THREADS=1 python benchmarks/stability.py                       # all: about a minute and a half a line
    OMP_NUM_THREADS=1 python benchmarks/stability.py --only rate --seeds 0 1 2 --steps 300 --curves curves.csv
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from wsi_vmamba.config.pretrain import PaintedSettings, PretrainConfig
from wsi_vmamba.datasets.synthetic import TISSUES
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.model import ss2d
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.loop import Loop
from wsi_vmamba.pretraining.objectives.painted import PaintedTissue
from wsi_vmamba.pretraining.painted_tiles import windows
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.weights_file import start

#: What everything is compared with: the settings of configs/pretrain-painted.yaml.
USUAL: Mapping[str, Any] = {
    "objective": "painted", "learning_rate": 1.5e-3, "warmup_steps": 40, "beta2": 0.99, "ema": 0.0,
    "gradient_clip": 1.0, "precision": "bf16", "log_steps": 1, "on_collapse": "warn",
}  # fmt: skip


@contextmanager
def step_sizes(low: float, high: float) -> Iterator[None]:
    """Draw the initial step sizes of the scan from another range."""
    before = ss2d._DT_RANGE
    ss2d._DT_RANGE = (low, high)
    try:
        yield
    finally:
        ss2d._DT_RANGE = before


@contextmanager
def coarse_a() -> Iterator[None]:
    """Round the logarithms of A to bfloat16 in each forward pass; the weights that are updated stay float32."""
    before = ss2d.SS2D.scan_parameters

    def rounded(self: ss2d.SS2D) -> Any:
        x_proj, dt_weight, dt_bias, a_logs, ds = before(self)
        return x_proj, dt_weight, dt_bias, a_logs + (a_logs.bfloat16().float() - a_logs).detach(), ds

    ss2d.SS2D.scan_parameters = rounded
    try:
        yield
    finally:
        ss2d.SS2D.scan_parameters = before


@dataclass(frozen=True)
class Variation:
    """One thing that is changed: its group, its name, settings, and what is different while it trains."""

    group: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    around: Callable[[], Any] = nullcontext


VARIATIONS = (
    Variation("usual", "usual"),
    Variation("dt", "dt 0.001", around=lambda: step_sizes(1e-3, 1e-3)),
    Variation("dt", "dt 0.0001 to 0.01", around=lambda: step_sizes(1e-4, 1e-2)),
    Variation("dt", "dt 0.01 to 0.1", around=lambda: step_sizes(1e-2, 1e-1)),
    Variation("dt", "dt 0.1 to 1", around=lambda: step_sizes(1e-1, 1.0)),
    Variation("a", "A from bf16 logarithms", around=coarse_a),
    Variation("clip", "no clipping", {"gradient_clip": 1e9}),
    Variation("clip", "clipped at 0.1", {"gradient_clip": 0.1}),
    Variation("warmup", "no warm-up", {"warmup_steps": 0}),
    Variation("rate", "rate / 3", {"learning_rate": 5e-4}),
    Variation("rate", "rate x 3", {"learning_rate": 4.5e-3}),
    Variation("rate", "rate x 10", {"learning_rate": 1.5e-2}),
    Variation("rate", "rate x 10, no clipping", {"learning_rate": 1.5e-2, "gradient_clip": 1e9}),
    Variation("rate", "rate x 10, no warm-up", {"learning_rate": 1.5e-2, "warmup_steps": 0}),
    Variation("rate", "rate x 10, neither", {"learning_rate": 1.5e-2, "warmup_steps": 0, "gradient_clip": 1e9}),
    Variation("precision", "fp32", {"precision": "fp32"}),
)  # fmt: skip


@dataclass
class Curve:
    """What a training did: loss and gradient of each step, and how it ended."""

    losses: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    end: str = ""


def train(variation: Variation, seed: int, batches: list[Batch]) -> Curve:
    """Train from random weights."""
    config = PretrainConfig(**{**USUAL, **variation.settings, "steps": len(batches), "seed": seed})
    curve = Curve()
    with variation.around():
        backbone, _ = start("vmamba_pico", "random", classes=TISSUES, seed=seed)
        learner = Learner(backbone, torch.nn.Identity(), precision=config.precision)
        loop = Loop(learner, PaintedTissue(), config, ranks=Ranks(), device="cpu")
        try:
            for _ in loop.run(enumerate(batches)):
                report = loop.report()
                curve.losses.append(report.numbers["loss"])
                curve.gradients.append(report.numbers["gradient_norm"])
        except TrainingError as error:
            curve.end = str(error).split("; try")[0]
    return curve


def main() -> None:
    """Train all that is asked for, print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = sorted({variation.group for variation in VARIATIONS})
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="windows of 128 px in a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=groups, default=groups, help="groups of variations")
    parser.add_argument("--chunks", type=int, default=8, help="of 48 tiles, that windows are drawn from")
    parser.add_argument("--curves", type=Path, help="CSV of all losses and gradients")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = PaintedSettings(batch=asked.batch, chunks=asked.chunks, renew_steps=10 * asked.steps)
    rows = []
    print("variation\tseed\tlast loss\tlargest gradient\tsteps\tend", flush=True)
    for seed in asked.seeds:
        painted = windows(settings, seed=seed + 500, first=0, last=asked.steps)
        batches = [Batch(painted=window) for window in painted]
        for variation in (one for one in VARIATIONS if one.group in asked.only):
            curve = train(variation, seed, batches)
            tail = curve.losses[-max(1, asked.steps // 10) :]
            after = curve.gradients[USUAL["warmup_steps"] :]
            numbers = f"{fmean(tail):.3f}" if tail else "-", f"{max(after):.2f}" if after else "-"
            end = curve.end or "-"
            print(variation.name, seed, *numbers, len(curve.losses), end, sep="\t", flush=True)
            rows += [
                (variation.name, seed, step, loss, gradient)
                for step, (loss, gradient) in enumerate(zip(curve.losses, curve.gradients, strict=True))
            ]
    if asked.curves:
        with asked.curves.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("variation", "seed", "step", "loss", "gradient_norm"), *rows]
            )


if __name__ == "__main__":
    main()
