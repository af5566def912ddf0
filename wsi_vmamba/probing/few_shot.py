"""How much a probe learns from a few tiles of each class, the same draws for every encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from wsi_vmamba.probing.folds import Fold, Indices, Task
from wsi_vmamba.probing.linear import FIXED_C, Features, fit_with, spread_of
from wsi_vmamba.probing.scores import balanced_accuracy, macro_auc, once

#: Tiles of each class.
SHOTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """A point of the curve.

    Attributes:
        shots: tiles of each class that were learned from.
        auc: mean over the draws; ``auc_sd`` their deviation.
        balanced_accuracy: the same.
    """

    shots: int
    auc: float
    auc_sd: float
    balanced_accuracy: float
    balanced_accuracy_sd: float


def few_shot_curve(features: Features, task: Task, *, draws: int, seed: int) -> list[FewShot]:
    """Learn from 1, 2, 4, ... tiles of each class of the training tiles of each fold, drawn anew ``draws`` times.

    Features are in the standard units of all training tiles of the fold, which takes none of their labels. The penalty
    is fixed (C = 0.01). Numbers of tiles that a class of some fold does not have are left out.
    """
    scalers = [StandardScaler().fit(features[fold.train]) for fold in task.folds]
    fewest = min(int(np.bincount(task.labels[fold.train]).min()) for fold in task.folds)
    curve = []
    for shots in (n for n in SHOTS if n <= fewest):
        rng = np.random.default_rng([seed, shots])
        found = [_draw(features, task, scalers, shots, rng) for _ in range(draws)]
        (auc, auc_sd), (accuracy, accuracy_sd) = (spread_of(values) for values in zip(*found, strict=True))
        curve.append(
            FewShot(
                shots=shots,
                auc=auc,
                auc_sd=auc_sd,
                balanced_accuracy=accuracy,
                balanced_accuracy_sd=accuracy_sd,
            )
        )
    return curve


def _draw(
    features: Features,
    task: Task,
    scalers: list[StandardScaler],
    shots: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """AUC and balanced accuracy of one draw, all folds pooled."""
    n_classes = len(task.classes)
    shares = np.full((len(task.labels), n_classes), np.nan)
    for fold, scaler in zip(task.folds, scalers, strict=True):
        few = _few(fold, task.labels, n_classes, shots, rng)
        probe = fit_with(features[few], task.labels[few], FIXED_C, n_classes=n_classes, scaler=scaler)
        shares[fold.test] = probe.predict(features[fold.test])
    judged = task.judged
    labels, draws = task.labels[judged], once(len(judged))
    return (
        float(macro_auc(labels, shares[judged], draws)[0]),
        float(balanced_accuracy(labels, shares[judged], draws)[0]),
    )


def _few(
    fold: Fold, labels: Indices, n_classes: int, shots: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    return np.concatenate(
        [rng.choice(fold.train[labels[fold.train] == one], shots, replace=False) for one in range(n_classes)]
    )
