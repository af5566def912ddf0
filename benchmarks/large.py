"""A large VMamba in training: memory and time of a step with and without checkpointing, and two processes against one.

    OMP_NUM_THREADS=1 python benchmarks/large.py [--model vmamba_large] [--px 224] [--batch 1]
    OMP_NUM_THREADS=1 python benchmarks/large.py --model vmamba_pico --px 64 --ddp-px 32

Each step is made in a process of its own: AdamW, one step to make its state, one that is measured. Memory is the most
that the process held, less what it held before the model was built; time is CPU time, for machines are shared. Then two
processes make half a batch each under DistributedDataParallel (gloo, checkpointing on) and the first one makes the
whole batch by itself: the gradients must be equal but for rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.vmamba import VMamba

_CLASSES = 10


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the comparison that the command line asks for, print it, and return its numbers."""
    asked = _parser().parse_args(arguments)
    if asked.child:
        found = _step(asked) if asked.child == "step" else _shared(asked)
        print(json.dumps(found))
        return found
    modes = _MODES if "steps" in asked.parts else {}
    steps = {mode: _child(asked, "step", *options) for mode, options in modes.items()}
    for mode, found in steps.items():
        print(
            f"{asked.model}, {found['parameters'] / 1e6:.1f} M parameters, {asked.batch} x {asked.px} px, fp32, "
            f"{mode}: {found['peak_mb']:,.0f} MB, {found['cpu_s']:.2f} s of CPU, gradient {found['gradient']:.9g}"
        )
    if "processes" not in asked.parts:
        return {"steps": steps}
    difference = _two_processes(asked)
    print(
        f"two processes against one, 2 x {asked.ddp_px} px: gradients differ by {difference:.2g} of the largest"
    )
    return {"steps": steps, "difference": difference}


_PARTS = ("steps", "processes")
_MODES: dict[str, tuple[str, ...]] = {"as it is": (), "checkpointing": ("--checkpointing",)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vmamba_large", help="backbone of the table")
    parser.add_argument("--px", type=int, default=224, help="side of the images of a measured step")
    parser.add_argument("--batch", type=int, default=1, help="images of a measured step")
    parser.add_argument("--ddp-px", type=int, default=64, help="side of the two images of two processes")
    parser.add_argument("--parts", nargs="+", default=list(_PARTS), choices=_PARTS, help="what is measured")
    parser.add_argument("--child", choices=("step", "shared"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    return parser


def _command(asked: argparse.Namespace, child: str, *options: str) -> list[str]:
    sizes = ["--px", str(asked.px), "--batch", str(asked.batch), "--ddp-px", str(asked.ddp_px)]
    return [sys.executable, __file__, "--model", asked.model, *sizes, "--child", child, *options]


def _child(asked: argparse.Namespace, child: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        _command(asked, child, *options), stdout=subprocess.PIPE, text=True, check=True, env=_environment()
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", **os.environ}


def _two_processes(asked: argparse.Namespace) -> float:
    """Largest difference of gradients, as a share of the largest gradient."""
    with tempfile.TemporaryDirectory() as folder:
        store = ("--store", str(Path(folder) / "store"))
        processes = [
            subprocess.Popen(
                _command(asked, "shared", *store, "--rank", str(rank)), stdout=subprocess.PIPE, text=True,
                env=_environment(),
            )
            for rank in range(2)
        ]  # fmt: skip
        said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process of the two failed; see above")
    return float(json.loads(said[0].splitlines()[-1])["difference"])


def _model(asked: argparse.Namespace, *, seed: int) -> VMamba:
    model = build_backbone(asked.model, num_classes=_CLASSES, seed=seed)
    assert isinstance(model, VMamba)
    model.grad_checkpointing = asked.checkpointing
    return model.train()


def _images(count: int, px: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count * px)
    return torch.randn(count, 3, px, px, generator=generator), torch.arange(count) % _CLASSES


def _step(asked: argparse.Namespace) -> dict[str, Any]:
    before = _peak_mb()
    model = _model(asked, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, labels = _images(asked.batch, asked.px)
    spent = norm = 0.0
    for _ in range(2):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        spent = time.process_time() - started
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_mb": _peak_mb() - before,
        "cpu_s": spent,
        "gradient": norm,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _shared(asked: argparse.Namespace) -> dict[str, Any]:
    dist.init_process_group("gloo", init_method=f"file://{asked.store}", rank=asked.rank, world_size=2)
    asked.checkpointing = True
    # The first process's weights are what both begin with.
    model = _model(asked, seed=asked.rank)
    shared = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    images, labels = _images(2, asked.ddp_px)
    mine = slice(asked.rank, asked.rank + 1)
    nn.functional.cross_entropy(shared(images[mine]), labels[mine]).backward()  # type: ignore[no-untyped-call]
    difference = 0.0
    if asked.rank == 0:
        together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        largest = max(float(one.abs().max()) for one in alone)
        difference = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True)) / largest
    dist.barrier()
    dist.destroy_process_group()
    return {"difference": difference}


if __name__ == "__main__":
    main()
