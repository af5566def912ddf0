"""Recipe: pictures with outlined objects to a detector."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config.detector import DetectorConfig
from wsi_vmamba.console import live_table
from wsi_vmamba.detection.front import COLUMNS, begin, run_training
from wsi_vmamba.detection.train import DetectorEpoch


def run(config: DetectorConfig) -> bool:
    """Train a detector, keep the best epoch, and say how to use it."""
    begun = begin(config)
    out = Path(config.out)
    console.say(
        f"training Mask R-CNN over {config.backbone} ({begun.weights}) on {len(begun.training.pictures)} pictures of "
        f"{', '.join(begun.training.classes)}; {len(begun.validation.pictures)} for validation"
    )
    with live_table(str(out), [name.replace("_", " ") for name in COLUMNS]) as add:

        def show(report: DetectorEpoch) -> None:
            *numbers, best = astuple(report)
            add([*(f"{n:.4g}" for n in numbers), "*" if best else ""])

        trained = run_training(begun, config, on_epoch=show)
    console.say(
        f"best epoch {trained.best.epoch}: average precision at an overlap of 0.5 is {trained.best.mask_ap50:.3f} of "
        f"masks, {trained.best.box_ap50:.3f} of boxes, on the validation pictures (it was chosen on them); next: "
        f"wsi-vmamba detect SLIDES --detector {out}"
    )
    return True
