"""Slides scored by a trained run: a model on features of patches, or a classifier on rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba import console
from wsi_vmamba.bags import BagLoader, SlideRecord
from wsi_vmamba.config import EvaluateConfig, TrainConfig, resolve_config
from wsi_vmamba.datasets.csv_features import read_feature_table
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.metrics.panel import Threshold
from wsi_vmamba.pipelines.scoring import (
    GROUP_COLUMNS,
    FoldScores,
    ScoredSlides,
    chosen_threshold,
    given_threshold,
)
from wsi_vmamba.pipelines.train import load_records
from wsi_vmamba.slide.same_name import near_names
from wsi_vmamba.tabular.run import holds_tabular_run
from wsi_vmamba.tabular.run import load as load_tabular_run
from wsi_vmamba.training import Prediction, Run, load_run, predict


class Scored(NamedTuple):
    """One slide with what the model says of it; the bag itself is not kept, a data set may not fit in memory."""

    record: SlideRecord
    patches: int
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A trained run with the predictions for one split."""

    folder: Path
    how: TrainConfig
    features: Path
    split: str
    scored: tuple[Scored, ...] = field(repr=False)
    threshold: Threshold | None
    folds: FoldScores | None = None

    def slides(self) -> ScoredSlides:
        """Labels, scores, groups and threshold of the run."""
        return ScoredSlides(
            source=f"{len(self.scored)} {self.split} slides of {self.folder}",
            slide_ids=tuple(item.record.slide_id for item in self.scored),
            labels=labels_of(self.scored),
            scores=probabilities_of(self.scored),
            patient_ids=tuple(item.record.patient_id for item in self.scored),
            groups=_groups(self.scored),
            patches=tuple(item.patches for item in self.scored),
            threshold=self.threshold,
            folds=self.folds,
        )


def score_run(config: EvaluateConfig, folder: Path) -> ScoredRun:
    """Predict a split of a run, and its validation slides for the threshold.

    Raises:
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    if holds_tabular_run(folder):
        return _score_table_run(config, folder)
    trained = load_run(folder)
    how = resolve_config(TrainConfig, file=folder / "train.yaml")
    features = Path(config.features or how.features)
    scored = score_split(config.split, how, trained, features)
    return ScoredRun(
        folder=folder, how=how, features=features, split=config.split, scored=tuple(scored),
        threshold=_threshold(config, how, trained, features),
    )  # fmt: skip


def score_split(split: str, how: TrainConfig, trained: Run, features: Path) -> list[Scored]:
    """Predict every labelled slide of the split with the run's best model.

    Raises:
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    listed = load_records(how)
    _refuse_renamed(listed, trained, dataset=how.dataset)
    records = [
        record
        for record in listed
        if record.label is not None and trained.splits.get(record.slide_id, record.split) == split
    ]
    if not records:
        raise DatasetError(f"{how.dataset}: no labelled slide in split {split!r}; choose another --split")
    require_features(records, features, dataset=how.dataset)
    loader = BagLoader(features, cache_bytes=0)  # each bag is used once
    with console.progress(f"score {split}", len(records)) as task:
        scored = []
        for record in records:
            bag = loader(record)
            scored.append(Scored(record, len(bag.features), predict(trained.model, bag)))
            task.step(record.slide_id)
    return scored


def _refuse_renamed(records: Sequence[SlideRecord], trained: Run, *, dataset: str) -> None:
    """Refuse slides that the run knows in another spelling: those it was trained on would pass for new ones.

    Raises:
        DatasetError: naming both spellings.
    """
    near = near_names((r.slide_id for r in records if r.slide_id not in trained.splits), trained.splits)
    if near:
        raise DatasetError(
            f"{dataset}: the run {trained.path} knows slides by other names: {near}; write them alike"
        )


def _score_table_run(config: EvaluateConfig, folder: Path) -> ScoredRun:
    """Score rows of numbers; the scores of validation slides were made when the run was trained."""
    fitted, how = load_tabular_run(folder), resolve_config(TrainConfig, file=folder / "train.yaml")
    table = read_feature_table(Path(how.manifest) if how.manifest else None)
    held_out = fitted.validation if config.split == "validation" else None
    records = [
        record
        for record in table.records
        if record.label is not None
        and (record.slide_id in held_out if held_out else (record.split or "train") == config.split)
    ]
    if not records:
        raise DatasetError(
            f"{how.manifest}: no labelled slide in split {config.split!r}; choose another --split"
        )
    names = [record.slide_id for record in records]
    scores = [held_out[name] for name in names] if held_out else fitted.predict(table, names)
    threshold: Threshold | None = given_threshold(config)
    if threshold is None and not held_out:
        labels = np.array(list(fitted.validation_labels.values()))
        threshold = chosen_threshold(labels, np.array(list(fitted.validation.values())))
    return ScoredRun(
        folder=folder, how=how, features=Path(how.features), split=config.split, threshold=threshold,
        scored=tuple(Scored(r, 1, Prediction(float(p), None)) for r, p in zip(records, scores, strict=True)),
    )  # fmt: skip


def _threshold(config: EvaluateConfig, how: TrainConfig, trained: Run, features: Path) -> Threshold | None:
    """The threshold given, or the one that the run's validation slides suggest; none when these are judged."""
    threshold: Threshold | None = given_threshold(config)
    if threshold is None and config.split != "validation":
        scored = score_split("validation", how, trained, features)
        threshold = chosen_threshold(labels_of(scored), probabilities_of(scored))
    return threshold


def _groups(scored: Sequence[Scored]) -> tuple[str, ...] | None:
    for column in GROUP_COLUMNS:
        groups = tuple(item.record.attributes.get(column, "") for item in scored)
        if any(groups):
            return groups
    return None


def labels_of(scored: Sequence[Scored]) -> NDArray[np.int64]:
    """Labels of the slides, (N,)."""
    return np.array([item.record.label for item in scored], dtype=np.int64)


def probabilities_of(scored: Sequence[Scored]) -> NDArray[np.float64]:
    """Probabilities of label 1, (N,)."""
    return np.array([item.prediction.probability for item in scored])
