"""Recipe: a CSV of slide features and labels to a classifier, through the same commands as slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_vmamba import console
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.datasets.csv_features import read_feature_table
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics.auc import auc
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.tabular import run as tabular


def run(config: TrainConfig) -> int:
    """Fit on the training rows, keep the classifier and its validation scores; return 0."""
    _refuse_slide_options(config)
    table = read_feature_table(Path(config.manifest) if config.manifest else None)
    folder = Path(config.runs) / (config.name or f"{config.dataset}-{config.classifier}")
    tabular.refuse_existing(folder, overwrite=config.overwrite)
    fitted = tabular.fit(table, classifier=config.classifier, seed=config.seed)
    tabular.save(folder, fitted, classifier=config.classifier, seed=config.seed)
    labels = np.array(list(fitted.validation_labels.values()))
    found = auc(labels, np.array(list(fitted.validation.values())), resamples=100, seed=config.seed)
    facts = {"device": "cpu", "validation_auc": found.value, "features": len(table.names)}
    write_run_record(folder, command="train", config=config, facts=facts)
    console.say(
        f"{config.classifier} on {len(table.names)} features; validation AUC {found.value:.4f} on {len(labels)} slides "
        f"that the scoring classifier had not seen; next: wsi-vmamba evaluate --metric auc --run {folder}"
    )
    return 0


def _refuse_slide_options(config: TrainConfig) -> None:
    """Refuse what is for slides with patches, rather than train without it.

    Raises:
        UsageError: naming the options.
    """
    default = TrainConfig()
    given = [
        f"--{name}"
        for name in ("aggregator", "supervision", "annotations", "folds")
        if getattr(config, name) != getattr(default, name)
    ]
    if given:
        raise UsageError(
            f"{config.dataset} has one row of numbers a slide, which {', '.join(given)} cannot use; leave it out, "
            "and choose a --classifier"
        )
