"""CPU time of a training step of one backbone: forward, backward and optimiser, and where it goes.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py [--model vmamba_pico] [--px 112 64] [--profile]
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --against /other/checkout/.venv/bin/python

Times are CPU milliseconds per image of 128 x 128 pixels: an image of 112 px counts as 0.77 of one. They are CPU time
because machines are shared, and medians of several steps. With ``--against`` another interpreter, in which another
version of the package is installed, takes turns with this one, step by step, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.model import build_backbone
from wsi_vmamba.ops import cpu

#: Pixels of the image that times are given for.
UNIT_PX = 128 * 128
PARTS = ("forward", "backward", "optimiser")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of step: a batch of square images in one precision."""

    batch: int
    px: int
    bf16: bool

    @property
    def name(self) -> str:
        """As printed, and as the key of the results."""
        return f"{self.batch} x {self.px} px, {'bf16' if self.bf16 else 'fp32'}"

    @property
    def units(self) -> float:
        """How many images of 128 x 128 pixels the batch amounts to."""
        return self.batch * self.px**2 / UNIT_PX


class Trainee:
    """A backbone, its optimiser and one batch of noise per side."""

    def __init__(self, model: str) -> None:
        torch.manual_seed(0)
        self.model = build_backbone(model, num_classes=10, seed=0).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self, case: Case) -> dict[str, float]:
        """One step; returns CPU milliseconds per unit image of each of `PARTS`."""
        images = torch.randn(
            case.batch, 3, case.px, case.px, generator=torch.Generator().manual_seed(case.px)
        )
        marks = [time.process_time()]
        loss = self.forward(case, images)
        marks.append(time.process_time())
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(time.process_time())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks.append(time.process_time())
        spent = zip(PARTS, marks[:-1], marks[1:], strict=True)
        return {part: 1e3 * (end - start) / case.units for part, start, end in spent}

    def forward(self, case: Case, images: Tensor) -> Tensor:
        """A loss that reaches every parameter of the backbone."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.bf16):
            logits = self.model(images)
        return logits.float().square().mean()


class Other:
    """The same script in another interpreter, waiting for a case on each line."""

    def __init__(self, python: Path, model: str) -> None:
        command = [str(python), str(Path(__file__).resolve()), "--serve", "--model", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self, case: Case) -> dict[str, float]:
        """Have the other take one step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"batch": case.batch, "px": case.px, "bf16": case.bf16}),
            file=self._process.stdin,
            flush=True,
        )
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(trainee: Trainee) -> None:
    """Answer each case on standard input with the times of one step, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(trainee.step(Case(**json.loads(line)))), flush=True)


def measure(
    step: Callable[[Case], dict[str, float]],
    *others: Callable[[Case], dict[str, float]],
    case: Case,
    repeats: int,
) -> list[dict[str, float]]:
    """Medians of all who take turns, after one step each that does not count."""
    who = (step, *others)
    taken = [[one(case) for one in who] for _ in range(repeats + 1)][1:]
    results = []
    for turns in zip(*taken, strict=True):
        found = {part: median(turn[part] for turn in turns) for part in PARTS}
        results.append(found | {"forward + backward": median(t["forward"] + t["backward"] for t in turns)})
    return results


def profile(trainee: Trainee, case: Case, rows: int) -> str:
    """Table of the operators that take most of forward and backward."""
    images = torch.randn(case.batch, 3, case.px, case.px)
    trainee.forward(case, images).backward()  # type: ignore[no-untyped-call]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        trainee.forward(case, images).backward()  # type: ignore[no-untyped-call]
    found = sorted(watched.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True)
    total = sum(row.self_cpu_time_total for row in found)
    lines = [
        f"  {row.key[:60]:<60} {row.self_cpu_time_total / 1e3 / case.units:7.3f} ms "
        f"{100 * row.self_cpu_time_total / total:5.1f} % {row.count:5d} calls"
        for row in found[:rows]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure every case and print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vmamba_pico")
    parser.add_argument("--px", type=int, nargs="+", default=[112, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also print where the time goes, by operator")
    parser.add_argument(
        "--against", type=Path, help="python of another version, which takes turns with this one"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    trainee = Trainee(options.model)
    if options.serve:
        serve(trainee)
        return
    print(
        f"{options.model}, instruction set {cpu.isa}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    other = Other(options.against, options.model) if options.against else None
    results: dict[str, Any] = {}
    for px in options.px:
        for precision in options.precision:
            case = Case(batch=options.batch, px=px, bf16=precision == "bf16")
            others = (other.step,) if other else ()
            found = measure(trainee.step, *others, case=case, repeats=options.repeats)
            results[case.name] = found
            for who, times in zip(("", " (other)"), found, strict=False):
                print(f"{case.name}{who}: " + ", ".join(f"{part} {ms:.2f}" for part, ms in times.items()))
            if other:
                print(
                    f"  other / this: {found[1]['forward + backward'] / found[0]['forward + backward']:.2f}",
                    flush=True,
                )
            if options.profile:
                print(profile(trainee, case, 40))
    if other:
        other.close()
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
