"""Slides scored by a classifier on rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.csv_features import FeatureTable, read_feature_table
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.evaluation.run_scores import Scored, ScoredRun, train_config_of
from wsi_vmamba.evaluation.scores import chosen_threshold, given_threshold
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import Prediction


def score_table_run(config: EvaluateConfig, folder: Path) -> ScoredRun:
    """Score rows of numbers; the scores of validation slides were made when the run was trained.

    Raises:
        DatasetError: the split has no labelled slide, or the table has other features than the run knows.
        TrainingError: the run is damaged.
    """
    # Loads scikit-learn, which the runs of slides with patches need not wait for.
    from wsi_vmamba.tabular.run import load

    fitted, train_config = load(folder), train_config_of(folder)
    table = read_feature_table(Path(train_config.manifest) if train_config.manifest else None)
    held_out = fitted.validation if config.split == "validation" else None
    records = _records_of(table, split=config.split, held_out=held_out)
    if not records:
        raise DatasetError(
            f"{train_config.manifest}: no labelled slide in split {config.split!r}; choose another --split"
        )
    names = [record.slide_id for record in records]
    scores = [held_out[name] for name in names] if held_out else fitted.predict(table, names)
    threshold = given_threshold(config)
    if threshold is None and not held_out:
        labels = np.array(list(fitted.validation_labels.values()))
        threshold = chosen_threshold(labels, np.array(list(fitted.validation.values())))
    return ScoredRun(
        folder=folder, train_config=train_config, features=Path(train_config.features), split=config.split,
        threshold=threshold,
        scored=tuple(Scored(r, 1, Prediction(float(p), None)) for r, p in zip(records, scores, strict=True)),
    )  # fmt: skip


def _records_of(
    table: FeatureTable, *, split: str, held_out: Mapping[str, float] | None
) -> list[SlideRecord]:
    """Labelled slides of a split; of validation those that ``held_out`` has scores of."""
    return [
        record
        for record in table.records
        if record.label is not None
        and (record.slide_id in held_out if held_out else (record.split or "train") == split)
    ]
