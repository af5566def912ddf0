"""One encoder's features of all tiles to what is known of the encoder; several are compared afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_vmamba.probing.few_shot import FewShot, few_shot_curve
from wsi_vmamba.probing.folds import Task
from wsi_vmamba.probing.leakage import Leakage, measure_leakage
from wsi_vmamba.probing.linear import Features, fit_probe, vote
from wsi_vmamba.probing.scores import Predictions, fold_aucs


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the features of one encoder are worth.

    Attributes:
        predictions: of the tiles that are judged, in the order of ``task.judged``.
        fold_aucs: within each fold; None where its tiles are of one class.
        penalties: C of each fold, and what it was chosen by.
        missing: of each fold the classes that were not among its training tiles.
        few_shot: the curve; empty where it was not asked for.
        leakage: of the slide of origin.
    """

    predictions: Predictions
    fold_aucs: list[float | None]
    penalties: list[tuple[float, str]]
    missing: list[tuple[str, ...]]
    few_shot: list[FewShot]
    leakage: Leakage


def judge_features(
    features: Features, task: Task, *, neighbours: int, few_shot_draws: int, seed: int
) -> Judged:
    """Fit and judge in every fold; ``few_shot_draws`` of 0 leaves the curve out."""
    n_classes = len(task.classes)
    linear = np.full((len(task.labels), n_classes), np.nan)
    votes = linear.copy()
    penalties, missing = [], []
    for fold in task.folds:
        seen = task.labels[fold.train]
        probe = fit_probe(features[fold.train], seen, task.groups[fold.train], n_classes=n_classes, seed=seed)
        linear[fold.test] = probe.predict(features[fold.test])
        votes[fold.test] = vote(
            features, task.labels, fold.train, fold.test, k=neighbours, n_classes=n_classes
        )
        penalties.append((probe.penalty_c, probe.chosen_by))
        missing.append(tuple(np.array(task.classes)[np.setdiff1d(np.arange(n_classes), seen)].tolist()))
    judged = task.judged
    return Judged(
        predictions=Predictions(labels=task.labels[judged], linear=linear[judged], neighbours=votes[judged]),
        fold_aucs=fold_aucs(task.labels, linear, [fold.test for fold in task.folds]),
        penalties=penalties,
        missing=missing,
        few_shot=few_shot_curve(features, task, draws=few_shot_draws, seed=seed) if few_shot_draws else [],
        leakage=measure_leakage(features, task, k=neighbours),
    )
