"""Recipe: train vmamba_pico to name the tissue of synthetic tiles, and write the weights the package ships.

Run ``OMP_NUM_THREADS=1 python -m wsi_vmamba.pipelines.pretrain_pico``; eleven minutes on two quiet CPU cores. Every
pixel it sees is generated (`wsi_vmamba.datasets.synthetic.sample_tiles`), from seeds no cohort uses. The weights are
for the demo and for trying the pipeline; they know nothing about real tissue.

The task is dense: the head, applied to every square of the last feature map, names the tissue of 32 x 32 px.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file

from wsi_vmamba import __version__, console
from wsi_vmamba.datasets.synthetic import TISSUES
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.training.pretrain_task import evaluate, optimizer_of, take_step
from wsi_vmamba.training.pretrain_tiles import Settings, batches, held_out_tiles

BACKBONE = "vmamba_pico"
WEIGHTS_NAME = "vmamba_pico_synthetic.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``--steps``, ``--out`` and ``--work``; train, evaluate, write; return 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--out", type=Path, default=Path("wsi_vmamba/model/pretrained"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pretrain_pico"), help="checkpoints and the log"
    )
    options = parser.parse_args(arguments)
    run(Settings(steps=options.steps), out=options.out, work=options.work)
    return 0


def run(settings: Settings, *, out: Path, work: Path) -> Path:
    """Train from the last checkpoint in ``work`` or from scratch; return the weights file written to ``out``."""
    work.mkdir(parents=True, exist_ok=True)
    model = cast(VMamba, build_backbone(BACKBONE, num_classes=len(TISSUES), seed=settings.seed))
    optimizer = optimizer_of(model, settings)
    started = _resume(work, settings, model, optimizer)
    held_out = held_out_tiles()
    before = time.perf_counter()
    for step, tiles in batches(settings, first=started):
        loss = take_step(model, optimizer, tiles, settings, step)
        if step % 10 == 0:
            console.say(
                f"step {step}/{settings.steps}  loss {loss:.3f}  {time.perf_counter() - before:.0f} s"
            )
        if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == settings.steps:
            _save_checkpoint(work, settings, model, optimizer, step + 1)
    accuracy = evaluate(model, held_out)
    console.say(json.dumps(accuracy, indent=2))
    write_atomic(work / "accuracy.json", (json.dumps(accuracy, indent=2) + "\n"))
    return _write_weights(out, settings, model, accuracy)


def _save_checkpoint(
    work: Path,
    settings: Settings,
    model: VMamba,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    partial = work / "checkpoint.partial"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "settings": json.dumps(asdict(settings))}, partial)
    partial.replace(work / "checkpoint.pt")


def _resume(work: Path, settings: Settings, model: VMamba, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint of the same settings; returns the step to go on with, 0 without one."""
    path = work / "checkpoint.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != json.dumps(asdict(settings)):
        raise SystemExit(f"{path} was made with other settings; remove it or choose another --work")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    console.say(f"going on from step {state['step']}")
    return int(state["step"])


def _write_weights(out: Path, settings: Settings, model: VMamba, accuracy: dict[str, float]) -> Path:
    """Write the backbone in float16, with what made it in the header."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / WEIGHTS_NAME
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "backbone": BACKBONE,
        "classes": ",".join(TISSUES),
        "recipe": "pipelines/pretrain_pico.py",
        "data": "synthetic only (wsi_vmamba.datasets.synthetic.sample_tiles)",
        "settings": json.dumps(asdict(settings)),
        "held_out_accuracy": json.dumps(accuracy),
        "wsi_vmamba": __version__,
        "torch": torch.__version__,
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)
    console.say(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
