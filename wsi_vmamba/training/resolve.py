"""What a configuration leaves open, decided: the device, the precision, the aggregator, the folder, the slides."""

from __future__ import annotations

import os
from pathlib import Path

from wsi_vmamba.config import TrainConfig
from wsi_vmamba.config.train import DEFAULT_AGGREGATOR
from wsi_vmamba.datasets import load_dataset
from wsi_vmamba.device import is_gpu, resolve_device
from wsi_vmamba.mil import SUPERVISIONS
from wsi_vmamba.mil.supervision import Supervision
from wsi_vmamba.records import SlideRecord, of_patients
from wsi_vmamba.training.settings import TrainSettings


def choose_device(asked: str) -> str:
    """Resolve ``auto`` to ``cuda`` where there is one, and make its matrix products reproducible.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    device = resolve_device(asked)
    if is_gpu(device):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


def settings_of(config: TrainConfig) -> TrainSettings:
    """The part of the configuration that shapes the training itself."""
    shared = set(TrainSettings.model_fields) & set(TrainConfig.model_fields)
    values = config.model_dump(include=shared)
    supervision: Supervision = SUPERVISIONS.resolve(config.supervision)
    if supervision.slides and config.aggregator is None:
        values["aggregator"] = DEFAULT_AGGREGATOR
    if config.precision == "auto":
        values["precision"] = "bf16" if is_gpu(choose_device(config.device)) else "fp32"
    return TrainSettings(**values)


def run_folder(config: TrainConfig) -> Path:
    """Folder of the run: ``<runs>/<name>``."""
    trained = settings_of(config).aggregator or config.supervision
    return Path(config.runs) / (config.name or f"{config.dataset}-{trained}")


def load_records(config: TrainConfig) -> list[SlideRecord]:
    """Return the slides of the configured data set, or its patients, with their labels and splits."""
    manifest = Path(config.manifest) if config.manifest else None
    records = load_dataset(config.dataset, manifest=manifest, classes=config.classes)
    return of_patients(records) if config.bag == "patient" else records
