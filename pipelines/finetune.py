"""Recipe: a backbone and labelled tiles to weights that `extract --weights` takes."""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from pathlib import Path

import safetensors.torch
from wsi_vmamba.pipelines.train import choose_device

from wsi_vmamba import __version__, console
from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.console import live_table
from wsi_vmamba.durable import csv_text, require_writable, write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import apply_state, read_state
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training.finetune import FinetuneEpoch, FinetuneSettings, finetune
from wsi_vmamba.training.tiles import TileSet

WEIGHTS, METRICS = "weights.safetensors", "metrics.csv"


def run(config: FinetuneConfig) -> int:
    """Fine-tune, keep the weights of the best epoch, and say how to use them; return 0."""
    out = Path(config.out)
    if (out / WEIGHTS).exists() and not config.overwrite:
        raise UsageError(
            f"{out / WEIGHTS} is there already; replace it with --overwrite, or choose another --out"
        )
    require_writable(out, option="--out")
    training, validation = (TileSet.find(Path(config.tiles) / split) for split in ("train", "validation"))
    model, note = start(config, n_classes=len(training.classes))
    settings = FinetuneSettings(
        **{field.name: getattr(config, field.name) for field in fields(FinetuneSettings)}
    )
    device = choose_device(config.device)
    console.say(
        f"fine-tuning {config.backbone} ({note}) on {len(training.tiles)} tiles of {len(training.classes)} classes; "
        f"{len(validation.tiles)} for validation"
    )
    history: list[FinetuneEpoch] = []
    with live_table(str(out), [field.name.replace("_", " ") for field in fields(FinetuneEpoch)]) as add:

        def keep(report: FinetuneEpoch, trained: VMamba) -> None:
            history.append(report)
            if report.is_best:
                write_atomic(out / WEIGHTS, packed(trained, config, training.classes))
            write_atomic(out / METRICS, as_csv(history))
            *numbers, best = asdict(report).values()
            add([*(f"{n:.4g}" for n in numbers), "*" if best else ""])

        finetune(model, training, validation, settings, device=device, on_epoch=keep)
    best = next(report for report in reversed(history) if report.is_best)
    facts = {"device": device, "classes": training.classes, "weights": note, "best": asdict(best)}
    write_run_record(out, command="finetune", config=config, facts=facts)
    console.say(
        f"best epoch {best.epoch}: balanced accuracy {best.validation_accuracy:.4f} on the validation tiles (it was "
        f"chosen on them); next: wsi-vmamba extract SLIDES --backbone {config.backbone} --weights {out / WEIGHTS}"
    )
    return 0


def start(config: FinetuneConfig, *, n_classes: int) -> tuple[VMamba, str]:
    """The backbone with its weights and a new head, and a line on where the weights are from.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights.
        WeightsError: the file does not fit.
    """
    if config.backbone not in VARIANTS:
        raise UsageError(f"only VMamba backbones are fine-tuned here, {config.backbone} is none")
    weights = resolve_weights(config.backbone, config.weights)
    model = variant(config.backbone, num_classes=n_classes, weights=None, seed=config.seed)
    if weights.path is not None:
        # The classes are others than those the weights were trained for, even where they are as many.
        state = {k: v for k, v in read_state(weights.path).items() if not k.startswith("classifier.head.")}
        head = {k: v for k, v in model.state_dict().items() if k.startswith("classifier.head.")}
        apply_state(model, {**state, **head}, source=str(weights.path))
    return model, weights.note


def packed(model: VMamba, config: FinetuneConfig, classes: tuple[str, ...]) -> bytes:
    """The model as a safetensors file, with what made it in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": "pt",
        "backbone": config.backbone,
        "classes": ",".join(classes),
        "wsi_vmamba": __version__,
    }
    content: bytes = safetensors.torch.save(tensors, metadata=header)
    return content


def as_csv(history: list[FinetuneEpoch]) -> str:
    """metrics.csv, one row per epoch."""
    header = [field.name for field in fields(FinetuneEpoch)]
    return csv_text(header, (astuple(report) for report in history))
