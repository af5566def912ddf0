"""Settings that somebody would otherwise have to find out: files for `--config`, each of a few keys of one command."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a command, for one purpose.

    Attributes:
        command: whose settings they are.
        purpose: what for.
        cost: time and memory as measured, and on what; or that nobody has measured them.
        values: key -> value, of what makes it what it is.
        launch: how the command is started.
    """

    command: str
    purpose: str
    cost: str
    values: Mapping[str, Any]
    launch: str


_ONE, _TWO, _EIGHT = (
    f"torchrun --nproc-per-node {n} -m wsi_vmamba pretrain slides/ --config configs/{{name}}.yaml"
    for n in (1, 2, 8)
)
_NOT_MEASURED = (
    "Time and memory: not measured. Make 50 steps first (--set steps=50 --set warmup_steps=10, in its own --out): "
    "the log says images/s; steps x squares x views of a square / images/s is the time."
)
#: What the trainings on GPUs share: eight small views and a slow teacher are the published recipe of DINO.
_GPU: Mapping[str, Any] = {
    "ema": 0.996,
    "init": "random",
    "threads": 8,
    "log_steps": 50,
    "checkpoint_steps": 1000,
    "export_steps": 10_000,
}


def _gpu(backbone: str, *, batch: int, steps: int, learning_rate: float, n_small: int) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "warmup_steps": steps // 20,
        **_GPU,
        "views": {"large_px": 224, "small_px": 96, "field_px": 320, "n_small": n_small},
        "dino": {"prototypes": 16_384, "hidden": 2048, "bottleneck": 256, "temperature_steps": steps // 10},
    }


PRESETS: Mapping[str, Preset] = {
    "pretrain-painted": Preset(
        command="pretrain",
        purpose="The weights vmamba_pico_synthetic: the painted task alone, on generated tiles, from random weights. "
        "It reads no slides.",
        cost="1,400 steps took eleven minutes on two quiet CPU cores.",
        launch="wsi-vmamba pretrain --config configs/{name}.yaml",
        values={
            "objective": "painted",
            "init": "random",
            "steps": 1400,
            "learning_rate": 1.5e-3,
            "warmup_steps": 40,
            "beta2": 0.99,
            "ema": 0.0,
            "log_steps": 10,
            "checkpoint_steps": 50,
            "precision": "bf16",
            "seed": 20,
        },
    ),
    "pretrain-tissue": Preset(
        command="pretrain",
        purpose="The weights that vmamba_pico is shipped with, from the painted ones; docs/model-card.md names the "
        "slides.",
        cost="2,400 steps took 75 minutes on one to one and a half cores of a busy server CPU with AMX.",
        launch="wsi-vmamba pretrain slides/ --config configs/{name}.yaml",
        values={
            "init": "vmamba_pico_synthetic",
            "init_share": 0.5,
            "steps": 2400,
            "learning_rate": 7e-4,
            "warmup_steps": 120,
            "ema": 0.992,
            "dino": {"temperature_steps": 600, "teacher_temperature": 0.06, "freeze_steps": 60},
            "measured_weight": 4.0,
            "painted_weight": 0.3,
            "precision": "bf16",
        },
    ),
    "pretrain-pico": Preset(
        command="pretrain",
        purpose="vmamba_pico on a CPU over night: self-distillation on your slides from the shipped weights, with the "
        "measured and the painted task beside it.",
        cost="Measured on one core of a busy server CPU with AMX, one process: 70 to 80 images/s, that is 1.7 s a step "
        "of 32 squares (4 views each), so 20,000 steps in ten hours. Two processes of one thread share the batch.",
        launch=_TWO,
        values={
            "steps": 20_000,
            "batch": 16,
            "warmup_steps": 500,
            "ema": 0.996,
            "measured_weight": 4.0,
            "painted_weight": 0.3,
            "painted": {"batch": 16},
            "export_steps": 2000,
        },
    ),
    "pretrain-tiny": Preset(
        command="pretrain",
        purpose="vmamba_tiny_s1l8 on one GPU.",
        cost=_NOT_MEASURED,
        launch=_ONE,
        values=_gpu("vmamba_tiny_s1l8", batch=128, steps=100_000, learning_rate=5e-4, n_small=4),
    ),
    "pretrain-small": Preset(
        command="pretrain",
        purpose="vmamba_small_s1l20 on eight GPUs.",
        cost=_NOT_MEASURED,
        launch=_EIGHT,
        values=_gpu("vmamba_small_s1l20", batch=64, steps=100_000, learning_rate=1e-3, n_small=8),
    ),
    "pretrain-base": Preset(
        command="pretrain",
        purpose="vmamba_base_s1l20 on eight GPUs.",
        cost=_NOT_MEASURED,
        launch=_EIGHT,
        values=_gpu("vmamba_base_s1l20", batch=64, steps=125_000, learning_rate=1e-3, n_small=8),
    ),
    "pretrain-large": Preset(
        command="pretrain",
        purpose="vmamba_large on eight GPUs.",
        cost=_NOT_MEASURED,
        launch=_EIGHT,
        values=_gpu("vmamba_large", batch=32, steps=250_000, learning_rate=7e-4, n_small=8),
    ),
}


def preset_yaml(name: str) -> str:
    """The file of a preset."""
    preset = PRESETS[name]
    lines = [
        *textwrap.wrap(preset.purpose, _WIDTH),
        *textwrap.wrap(preset.cost, _WIDTH),
        "",
        f"    {preset.launch.format(name=name)}",
        "",
        f"Keys that are not here have the defaults of configs/{preset.command}.yaml.",
    ]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return head + "\n" + yaml.safe_dump(dict(preset.values), sort_keys=False)
