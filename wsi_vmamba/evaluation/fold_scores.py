"""Slides scored by the models of a cross-validation: each held-out slide by one, each test slide by all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from wsi_vmamba.bags import Bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.evaluation.run_scores import (
    Scored,
    ScoredRun,
    auc_of,
    labels_of,
    probabilities_of,
    score_run,
    score_split,
    train_config_of,
)
from wsi_vmamba.evaluation.scores import FoldScores, chosen_threshold, given_threshold
from wsi_vmamba.evaluation.table_scores import score_table_run
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.tabular.folder import holds_tabular_run
from wsi_vmamba.training import Run, load_run
from wsi_vmamba.training.folders import RECORD, fold_folder
from wsi_vmamba.training.model import average
from wsi_vmamba.training.run import MODEL


def score(config: EvaluateConfig, folder: Path, *, progress: ShowProgress = unseen) -> ScoredRun:
    """Predict a split with what the folder holds: a run, all runs of a cross-validation, a classifier of rows.

    Raises:
        TrainingError: the folder holds no run, or a cross-validation that is not finished.
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
    """
    if holds_folds(folder):
        return score_folds(config, folder, progress=progress)
    if holds_tabular_run(folder):
        return score_table_run(config, folder)
    return score_run(config, folder, progress=progress)


def score_again(
    config: EvaluateConfig, folder: Path, *, change: Callable[[Bag], Bag], progress: ShowProgress = unseen
) -> list[Scored]:
    """The slides of the split, in the order of `score`, with other bags than those that are stored; no threshold.

    Args:
        config: of the evaluation; its ``features`` may be others than before.
        folder: of a run or a cross-validation.
        change: makes of a bag the one that is predicted.
        progress: shows the progress.
    """
    train_config = train_config_of(folder)
    features = Path(config.features or train_config.features)
    runs = runs_of(folder)
    each = [
        score_split(config.split, train_config, run, features, change=change, progress=progress)
        for run in runs
    ]
    if config.split == "validation":
        return [item for fold in each for item in fold]
    return [_average(items) for items in zip(*each, strict=True)]


def score_folds(config: EvaluateConfig, folder: Path, *, progress: ShowProgress = unseen) -> ScoredRun:
    """Predict a split with the runs of a cross-validation.

    A validation slide is scored by the one model that was not trained on it (out-of-fold). The prediction for a test
    slide is the mean of all models' probabilities, attentions and patch probabilities. The threshold for test slides is
    chosen on the out-of-fold scores.

    Raises:
        UsageError: training slides are asked for.
        DatasetError: the split has no labelled slide.
    """
    if config.split == "train":
        raise UsageError(
            f"{folder} is a cross-validation, in which each slide is a training slide of all folds but one; use "
            f"--split validation (out-of-fold) or test, or --run {fold_folder(folder, 1)}"
        )
    train_config = train_config_of(folder)
    features = Path(config.features or train_config.features)
    runs = runs_of(folder)

    def score_each(split: str) -> list[list[Scored]]:
        return [score_split(split, train_config, run, features, progress=progress) for run in runs]

    held_out = score_each("validation")
    pooled = [item for fold in held_out for item in fold]
    spec = runs[0].model.spec
    threshold = given_threshold(config, n_classes=spec.num_classes)
    if config.split == "validation":
        scored, folds = pooled, held_out
    else:
        folds = score_each("test")
        scored = [_average(items) for items in zip(*folds, strict=True)]
        if threshold is None and spec.num_classes == 2:
            threshold = chosen_threshold(labels_of(pooled), probabilities_of(pooled))
    return ScoredRun(
        folder=folder, train_config=train_config, features=features, split=config.split, scored=tuple(scored),
        threshold=threshold, classes=spec.classes,
        folds=FoldScores(
            split=config.split,
            aucs=tuple(auc_of(fold) for fold in folds),
            out_of_fold_auc=auc_of(pooled),
            n_out_of_fold=len(pooled),
        ),
    )  # fmt: skip


def runs_of(folder: Path) -> list[Run]:
    """The runs of a cross-validation, fold by fold; of any other run itself.

    Raises:
        TrainingError: it is not finished, or a part of it is not there.
    """
    return [load_run(each) for each in folders_of_folds(folder) or [folder]]


def holds_folds(folder: Path) -> bool:
    """Whether the folder is that of a cross-validation; raises what `folders_of_folds` does."""
    return bool(folders_of_folds(folder))


def folders_of_folds(folder: Path) -> list[Path]:
    """The folders of the runs of a cross-validation, in order; none where the folder is of something else.

    Raises:
        TrainingError: it is not finished, or a fold of it is not there.
    """
    if (folder / MODEL).exists() or not any(folder.glob("fold-[0-9]*/")):
        return []
    if not (folder / RECORD).is_file():
        raise TrainingError(
            f"the cross-validation in {folder} is not finished; go on with `wsi-vmamba train ... --resume`, or judge "
            f"one of its runs: --run {fold_folder(folder, 1)}"
        )
    found = [fold_folder(folder, number) for number in range(1, (train_config_of(folder).folds or 0) + 1)]
    for each in found:
        if not (each / MODEL).is_file():
            raise TrainingError(
                f"the cross-validation in {folder} has {len(found)} folds, and {each / MODEL} is not "
                "there; copy the folder again, or name one of its runs"
            )
    return found


def _average(items: Sequence[Scored]) -> Scored:
    """The mean of what several models say of one slide."""
    return items[0]._replace(prediction=average([item.prediction for item in items]))
