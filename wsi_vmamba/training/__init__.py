"""Train a slide classifier on bags of features, go on after an interruption, and use what was trained.

What needs torch is loaded when it is asked for: where runs lie (`folders`) is asked by commands that need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_vmamba.registry import load_attribute

if TYPE_CHECKING:
    from wsi_vmamba.training.folds import source_of_folds, split_folds
    from wsi_vmamba.training.loop import TrainResult, train
    from wsi_vmamba.training.model import ModelSpec, Prediction, SlideClassifier, predict
    from wsi_vmamba.training.run import EpochReport, Run, load_run
    from wsi_vmamba.training.settings import TrainSettings
    from wsi_vmamba.training.targets import PatchTargets

__all__ = [
    "EpochReport",
    "ModelSpec",
    "PatchTargets",
    "Prediction",
    "Run",
    "SlideClassifier",
    "TrainResult",
    "TrainSettings",
    "load_run",
    "predict",
    "source_of_folds",
    "split_folds",
    "train",
]

_HOMES = {
    "EpochReport": "run",
    "ModelSpec": "model",
    "PatchTargets": "targets",
    "Prediction": "model",
    "Run": "run",
    "SlideClassifier": "model",
    "TrainResult": "loop",
    "TrainSettings": "settings",
    "load_run": "run",
    "predict": "model",
    "source_of_folds": "folds",
    "split_folds": "folds",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_attribute(f"{__name__}.{_HOMES[name]}:{name}")
