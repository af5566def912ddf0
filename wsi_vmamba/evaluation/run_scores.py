"""Slides scored by a trained model on features of their patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.bags import Bag, BagLoader
from wsi_vmamba.config import EvaluateConfig, TrainConfig, resolve_config
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.evaluation.scores import (
    GROUP_COLUMNS,
    SITE_COLUMNS,
    FoldScores,
    ScoredSlides,
    chosen_threshold,
    given_threshold,
)
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.classes import macro_roc_auc
from wsi_vmamba.metrics.panel import Threshold
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide.same_name import near_names
from wsi_vmamba.training import Prediction, Run, load_run, predict
from wsi_vmamba.training.folders import CONFIG
from wsi_vmamba.training.resolve import load_records


class Scored(NamedTuple):
    """One slide with what the model says of it; the bag itself is not kept, a data set may not fit in memory."""

    record: SlideRecord
    patches: int
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A trained run with the predictions for one split.

    Attributes:
        folder: of the run.
        train_config: the configuration that it was trained with.
        features: folder of the features that were scored.
        split: "test", "validation" or "train".
        scored: its slides.
        threshold: from which score on a slide is called positive, where one was given or chosen.
        folds: of a cross-validation, how each of its models did.
        classes: names of the classes, where labels are names.
    """

    folder: Path
    train_config: TrainConfig
    features: Path
    split: str
    scored: tuple[Scored, ...] = field(repr=False)
    threshold: Threshold | None
    folds: FoldScores | None = None
    classes: tuple[str, ...] | None = None

    def slides(self) -> ScoredSlides:
        """Labels, scores, groups and threshold of the run."""
        what = "patients" if self.train_config.bag == "patient" else "slides"
        return ScoredSlides(
            source=f"{len(self.scored)} {self.split} {what} of {self.folder}",
            slide_ids=tuple(item.record.slide_id for item in self.scored),
            labels=labels_of(self.scored),
            scores=probabilities_of(self.scored),
            patient_ids=tuple(item.record.patient_id for item in self.scored),
            groups=_column(self.scored, GROUP_COLUMNS),
            patches=tuple(item.patches for item in self.scored),
            threshold=self.threshold,
            folds=self.folds,
            classes=self.classes,
            shares=shares_of(self.scored),
            sites=_column(self.scored, SITE_COLUMNS),
            ordered=bool(self.train_config.classes),
        )


def train_config_of(folder: Path) -> TrainConfig:
    """The configuration that a run, or a cross-validation, was trained with.

    Raises:
        ConfigError: it is missing or damaged.
    """
    return resolve_config(TrainConfig, file=folder / CONFIG)


def score_run(config: EvaluateConfig, folder: Path, *, progress: ShowProgress = unseen) -> ScoredRun:
    """Predict a split of a run, and its validation slides for the threshold.

    Raises:
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    trained = load_run(folder)
    train_config = train_config_of(folder)
    features = Path(config.features or train_config.features)

    def score(split: str) -> list[Scored]:
        return score_split(split, train_config, trained, features, progress=progress)

    scored = score(config.split)
    spec = trained.model.spec
    threshold = given_threshold(config, n_classes=spec.num_classes)
    if (
        threshold is None and config.split != "validation" and spec.num_classes == 2
    ):  # none where these are judged
        held_out = score("validation")
        threshold = chosen_threshold(labels_of(held_out), probabilities_of(held_out))
    return ScoredRun(
        folder=folder, train_config=train_config, features=features, split=config.split, scored=tuple(scored),
        threshold=threshold, classes=spec.classes,
    )  # fmt: skip


def as_it_is(bag: Bag) -> Bag:
    """The bag that was stored."""
    return bag


def score_split(
    split: str,
    train_config: TrainConfig,
    trained: Run,
    features: Path,
    *,
    change: Callable[[Bag], Bag] = as_it_is,
    progress: ShowProgress = unseen,
) -> list[Scored]:
    """Predict every labelled slide of the split with the run's best model.

    Args:
        split: "test", "validation" or "train".
        train_config: of the run.
        trained: the run.
        features: folder of the features.
        change: makes of a bag the one that is predicted.
        progress: shows the progress.

    Raises:
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    listed = [_as_trained(record, trained) for record in load_records(train_config)]
    _refuse_renamed(listed, trained, dataset=train_config.dataset)
    records = [
        record
        for record in listed
        if record.label is not None and trained.splits.get(record.slide_id, record.split) == split
    ]
    if not records:
        raise DatasetError(
            f"{train_config.dataset}: no labelled slide in split {split!r}; choose another --split"
        )
    require_features(records, features, dataset=train_config.dataset)
    loader = BagLoader(features, cache_bytes=0)  # each bag is used once
    with progress(f"score {split}", len(records)) as task:
        scored = []
        for record in records:
            bag = change(loader(record))
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


def _as_trained(record: SlideRecord, trained: Run) -> SlideRecord:
    """The record with the number that the run gave to its class: the manifest may have more or fewer classes by now.

    Raises:
        DatasetError: the run knows no such class.
    """
    classes = trained.model.spec.classes
    if record.label is None:
        return record
    if classes is None:
        if record.label_name:
            raise DatasetError(
                f"{record.slide_id}: the run {trained.path} was trained on labels 0 and 1, and the manifest has names "
                f"of classes by now ({record.label_name}); train again"
            )
        return record
    if record.label_name not in classes:
        raise DatasetError(
            f"{record.slide_id}: the run {trained.path} tells {', '.join(classes)} apart, and this slide is labelled "
            f"{record.label_name or record.label!r}"
        )
    return replace(record, label=classes.index(record.label_name))


def _column(scored: Sequence[Scored], columns: Sequence[str]) -> tuple[str, ...] | None:
    for column in columns:
        groups = tuple(item.record.attributes.get(column, "") for item in scored)
        if any(groups):
            return groups
    return None


def labels_of(scored: Sequence[Scored]) -> NDArray[np.int64]:
    """Labels of the slides, (N,)."""
    return np.array([item.record.label for item in scored], dtype=np.int64)


def probabilities_of(scored: Sequence[Scored]) -> NDArray[np.float64]:
    """Probabilities of label 1, or of the class called of several, (N,)."""
    return np.array([item.prediction.probability for item in scored])


def shares_of(scored: Sequence[Scored]) -> NDArray[np.float64] | None:
    """Probabilities (N, K) of more than two classes."""
    found = [item.prediction.shares for item in scored if item.prediction.shares is not None]
    return np.stack(found) if found else None


def auc_of(scored: Sequence[Scored]) -> float:
    """ROC AUC of slides, of more than two classes the macro AUC."""
    shares = shares_of(scored)
    if shares is None:
        return float(roc_auc(labels_of(scored), probabilities_of(scored)))
    return macro_roc_auc(labels_of(scored), shares)
