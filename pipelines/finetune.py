"""Recipe: a backbone and labelled tiles or clips to weights, for `extract --weights` or `load_clip_classifier`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.dense.rounds import METRICS, best_of, refuse_existing
from wsi_vmamba.durable import csv_text, require_writable, write_atomic
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training.finetune import Classifier, FinetuneEpoch, FinetuneSettings, finetune
from wsi_vmamba.training.finetune_state import FILE, identity, load_state, save_state
from wsi_vmamba.training.finetune_weights import packed, start
from wsi_vmamba.training.resolve import choose_device
from wsi_vmamba.training.tiles import TileSet

WEIGHTS = "weights.safetensors"
COLUMNS = tuple(field.name for field in fields(FinetuneEpoch))


def run(config: FinetuneConfig) -> bool:
    """Fine-tune, keep the weights of the best epoch, and say how to use them."""
    out = Path(config.out)
    refuse_existing(out, (WEIGHTS, FILE), overwrite=config.overwrite, resume=config.resume)
    require_writable(out, option="--out")
    training, validation = (
        TileSet.find(Path(config.tiles) / split, clip_frames=config.clip_frames)
        for split in ("train", "validation")
    )
    model, note = start(config, n_classes=len(training.classes))
    settings = FinetuneSettings(
        **{field.name: getattr(config, field.name) for field in fields(FinetuneSettings)}
    )
    device = choose_device(config.device)
    what = f"clips of {config.clip_frames} frames" if config.clip_frames else "tiles"
    console.say(
        f"fine-tuning {config.backbone} ({note}) on {len(training.tiles)} {what} of {len(training.classes)} classes; "
        f"{len(validation.tiles)} for validation"
    )
    asked = identity(config, training, validation, weights=note)
    state = load_state(out, asked) if config.resume else None
    if config.resume:
        console.say_resumed(out, len(state["history"]) if state else 0, what="epoch")
    with console.rounds_table(out, FinetuneEpoch) as show:
        keep = _keeper(out, config, training.classes, show, past=state["history"] if state else [])
        history = finetune(
            model, training, validation, settings, device=device, on_epoch=keep,
            on_state=lambda new: save_state(out, new, asked), state=state,
        )  # fmt: skip
    best = best_of(history)
    facts = {"device": device, "classes": training.classes, "weights": note, "best": asdict(best)}
    write_run_record(out, command="finetune", config=config, facts=facts)
    console.say(
        f"best epoch {best.epoch}: balanced accuracy {best.validation_accuracy:.4f} on the validation set (it was "
        f"chosen on it); next: {_next(config, out / WEIGHTS)}"
    )
    return True


def _next(config: FinetuneConfig, weights: Path) -> str:
    """What the weights are for."""
    if config.clip_frames:
        return f"wsi_vmamba.load_clip_classifier({str(weights)!r}) in Python"
    return f"wsi-vmamba extract SLIDES --backbone {config.backbone} --weights {weights}"


def _keeper(
    out: Path,
    config: FinetuneConfig,
    classes: Sequence[str],
    show: Callable[[FinetuneEpoch], None],
    *,
    past: Sequence[Mapping[str, Any]],
) -> Callable[[FinetuneEpoch, Classifier], None]:
    """What is done after each epoch: keep the weights where they are the best so far, write and show the numbers."""
    history = [FinetuneEpoch(**row) for row in past]

    def keep(report: FinetuneEpoch, trained: Classifier) -> None:
        history.append(report)
        if report.is_best:
            write_atomic(out / WEIGHTS, packed(trained, config, classes))
        write_atomic(out / METRICS, csv_text(COLUMNS, (astuple(one) for one in history)))
        show(report)

    return keep
