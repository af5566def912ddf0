"""Training a classifier on a CSV of slide features and labels, as the configuration asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_vmamba.config import TrainConfig
from wsi_vmamba.cost import COST, Stopwatch
from wsi_vmamba.datasets.csv_features import read_feature_table
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.tabular.folder import refuse_existing


@dataclass(frozen=True, kw_only=True)
class TableTraining:
    """What was trained.

    Attributes:
        folder: of the run.
        n_features: columns of the table that are features.
        n_validation: slides that ``validation_auc`` is of, none of them seen by the classifier that scored it.
        validation_auc: ROC AUC.
    """

    folder: Path
    n_features: int
    n_validation: int
    validation_auc: float


def train_table(config: TrainConfig) -> TableTraining:
    """Fit on the training rows, keep the classifier and its validation scores.

    Raises:
        UsageError: an option for slides with patches is given, or the folder holds a run that is not to be overwritten.
        DatasetError: the table is not as described, or a training slide has no label.
    """
    # Loads scikit-learn, which the training of slides with patches need not wait for.
    from wsi_vmamba.tabular import run as tabular

    watch = Stopwatch()
    _refuse_slide_options(config)
    table = read_feature_table(Path(config.manifest) if config.manifest else None)
    folder = Path(config.runs) / (config.name or f"{config.dataset}-{config.classifier}")
    refuse_existing(folder, overwrite=config.overwrite)
    fitted = tabular.fit(table, classifier=config.classifier, seed=config.seed)
    tabular.save(folder, fitted, classifier=config.classifier, seed=config.seed)
    labels = np.array(list(fitted.validation_labels.values()))
    found = float(roc_auc(labels, np.array(list(fitted.validation.values()))))
    facts: dict[str, Any] = {"device": "cpu", "validation_auc": found, "features": len(table.names)}
    facts |= {COST: watch.cost(device="cpu")}
    write_run_record(folder, command="train", config=config, facts=facts)
    return TableTraining(
        folder=folder, n_features=len(table.names), n_validation=len(labels), validation_auc=found
    )


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
