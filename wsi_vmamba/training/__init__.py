"""Train a slide classifier on bags of features, go on after an interruption, and use what was trained."""

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
