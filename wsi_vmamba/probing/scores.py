"""Metrics of predictions, each as a function of how often every tile counts, so that intervals come by reweighting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.auc import auc_statistic
from wsi_vmamba.probing.folds import Indices

Shares = NDArray[np.float64]
Weights = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What an encoder's probe and nearest neighbours say of the tiles that are judged.

    Attributes:
        labels: (n,) place of each tile's class.
        linear: (n, classes) probabilities of the linear probe.
        neighbours: (n, classes) shares of the nearest neighbours.
    """

    labels: Indices
    linear: Shares
    neighbours: Shares


#: ``f(predictions, weights (B, n)) -> (B,)``; NaN where the tiles that count do not define it.
Metric = Callable[[Predictions, Weights], NDArray[np.float64]]


def class_aucs(labels: Indices, shares: Shares, weights: Weights) -> NDArray[np.float64]:
    """AUC of each class against all others, (classes, B); NaN where a class or all others are missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(
            [
                auc_statistic((labels == one).astype(np.int64), shares[:, one], weights)
                for one in range(shares.shape[1])
            ]
        )


def macro_auc(labels: Indices, shares: Shares, weights: Weights) -> NDArray[np.float64]:
    """Mean over the classes among ``labels`` of the AUC of each against all others, (B,)."""
    present = np.unique(labels)
    mean: NDArray[np.float64] = class_aucs(labels, shares, weights)[present].mean(axis=0)
    return mean


def balanced_accuracy(labels: Indices, shares: Shares, weights: Weights) -> NDArray[np.float64]:
    """Mean over the classes among ``labels`` of the share of their tiles whose largest share is theirs, (B,)."""
    right = (shares.argmax(axis=1) == labels).astype(np.float64)
    recalls = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for one in np.unique(labels):
            of_class = weights * (labels == one)
            recalls.append(of_class @ right / of_class.sum(axis=1))
    mean: NDArray[np.float64] = np.mean(recalls, axis=0)
    return mean


#: Name -> metric, the first is what encoders are ranked by.
METRICS: Mapping[str, Metric] = {
    "auc": lambda p, w: macro_auc(p.labels, p.linear, w),
    "balanced_accuracy": lambda p, w: balanced_accuracy(p.labels, p.linear, w),
    "neighbour_accuracy": lambda p, w: balanced_accuracy(p.labels, p.neighbours, w),
}


def value_of(metric: Metric, predictions: Predictions) -> float:
    """A metric with every tile counting once."""
    return float(metric(predictions, np.ones((1, len(predictions.labels))))[0])


def confusion(labels: Indices, shares: Shares) -> list[list[int]]:
    """Tiles by true class (rows) and by the class with the largest share (columns)."""
    n_classes = shares.shape[1]
    counts = np.bincount(labels * n_classes + shares.argmax(axis=1), minlength=n_classes**2)
    table: list[list[int]] = counts.reshape(n_classes, n_classes).tolist()
    return table


def fold_aucs(labels: Indices, shares: Shares, folds: Sequence[Indices]) -> list[float | None]:
    """Macro AUC within each fold; None where its tiles are all of one class."""
    return [
        float(macro_auc(labels[fold], shares[fold], np.ones((1, len(fold))))[0])
        if len(np.unique(labels[fold])) > 1
        else None
        for fold in folds
    ]
