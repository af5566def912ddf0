"""Metrics of predictions, each as a function of how often every tile counts, so that intervals come by reweighting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.auc import auc_statistic
from wsi_vmamba.probing.folds import Indices

Shares = NDArray[np.float64]
Numbers = NDArray[np.float64]


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


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Resamples of the tiles that are judged.

    Attributes:
        weights: (B, n) how often each tile counts.
        copies: (B, groups) how often each group was drawn as a whole; None where single tiles were.
        group_of: (n,) place of each tile's group.
    """

    weights: Numbers
    copies: Numbers | None
    group_of: Indices


#: ``f(predictions, draws) -> (B,)``; NaN where the tiles that count do not define it.
Metric = Callable[[Predictions, Draws], Numbers]


def once(n_tiles: int, group_of: Indices | None = None) -> Draws:
    """Every tile counting once; without groups all are of one."""
    if group_of is None:
        group_of = np.zeros(n_tiles, dtype=np.int64)
    return Draws(weights=np.ones((1, n_tiles)), copies=None, group_of=group_of)


def class_aucs(labels: Indices, shares: Shares, draws: Draws) -> Numbers:
    """AUC of each class against all others, (classes, B); NaN where a class or all others are missing.

    Two copies of a group that was drawn twice are not compared with each other. Reweighting alone would do so: a
    resample would have too many pairs within groups, often easier to tell apart, and its AUC would be too high.
    """
    return np.stack(
        [_auc((labels == one).astype(np.int64), shares[:, one], draws) for one in range(shares.shape[1])]
    )


def _auc(positive: Indices, scores: Numbers, draws: Draws) -> Numbers:
    positives, negatives = draws.weights @ positive, draws.weights @ (1 - positive)
    pairs = positives * negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = auc_statistic(positive, scores, draws.weights) * pairs
        if draws.copies is not None:
            within_wins, within_pairs = _within_groups(positive, scores, draws.group_of)
            excess = draws.copies * (draws.copies - 1)
            wins, pairs = wins - excess @ within_wins, pairs - excess @ within_pairs
        shares: Numbers = wins / pairs
    shares[pairs < 0.5] = np.nan  # a count of pairs, of which rounding can leave a trace
    return shares


def _within_groups(positive: Indices, scores: Numbers, group_of: Indices) -> tuple[Numbers, Numbers]:
    """Of each group the pairs of a positive and a negative tile that are ranked right, and all of them."""
    n_groups = int(group_of.max()) + 1
    of_groups = np.arange(n_groups)[:, None] == group_of
    pairs = (of_groups @ positive) * (of_groups @ (1 - positive)).astype(np.float64)
    wins = np.zeros(n_groups)
    for one in np.flatnonzero(pairs):
        members = of_groups[one]
        count = members.sum()
        wins[one] = pairs[one] * auc_statistic(positive[members], scores[members], np.ones((1, count)))[0]
    return wins, pairs


def macro_auc(labels: Indices, shares: Shares, draws: Draws) -> Numbers:
    """Mean over the classes among ``labels`` of the AUC of each against all others, (B,)."""
    present = np.unique(labels)
    mean: Numbers = class_aucs(labels, shares, draws)[present].mean(axis=0)
    return mean


def group_auc(labels: Indices, shares: Shares, draws: Draws) -> Numbers:
    """Mean over groups of the AUC among the tiles of each, (B,): are tissues told apart within a slide?

    A class counts in the groups that have tiles of it and of others; the mean of classes is taken last. NaN where no
    group has two classes. Pooled, scores of one slide are ranked against those of another too: a threshold must carry.
    """
    found = []
    for one in np.unique(labels):
        positive = (labels == one).astype(np.int64)
        sums, counts = np.zeros(len(draws.weights)), np.zeros(len(draws.weights))
        for group in range(int(draws.group_of.max()) + 1):
            members = np.flatnonzero(draws.group_of == group)
            if 0 < positive[members].sum() < len(members):
                within = Draws(
                    weights=draws.weights[:, members], copies=None, group_of=np.zeros_like(members)
                )
                value = _auc(positive[members], shares[members, one], within)
                copies = np.ones(len(value)) if draws.copies is None else draws.copies[:, group]
                counted = np.isfinite(value)
                sums += np.where(counted, value, 0) * copies
                counts += counted * copies
        with np.errstate(invalid="ignore"):
            found.append(sums / counts)
    mean: Numbers = np.mean(found, axis=0)
    return mean


def balanced_accuracy(labels: Indices, shares: Shares, draws: Draws) -> Numbers:
    """Mean over the classes among ``labels`` of the share of their tiles whose largest share is theirs, (B,)."""
    right = (shares.argmax(axis=1) == labels).astype(np.float64)
    recalls = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for one in np.unique(labels):
            of_class = draws.weights * (labels == one)
            recalls.append(of_class @ right / of_class.sum(axis=1))
    mean: Numbers = np.mean(recalls, axis=0)
    return mean


#: Name -> metric, the first is what encoders are ranked by.
METRICS: Mapping[str, Metric] = {
    "auc": lambda p, d: macro_auc(p.labels, p.linear, d),
    "group_auc": lambda p, d: group_auc(p.labels, p.linear, d),
    "balanced_accuracy": lambda p, d: balanced_accuracy(p.labels, p.linear, d),
    "neighbour_accuracy": lambda p, d: balanced_accuracy(p.labels, p.neighbours, d),
}


def value_of(metric: Metric, predictions: Predictions, group_of: Indices) -> float:
    """A metric with every tile counting once; NaN where it is not defined."""
    return float(metric(predictions, once(len(predictions.labels), group_of))[0])


def confusion(labels: Indices, shares: Shares) -> list[list[int]]:
    """Tiles by true class (rows) and by the class with the largest share (columns)."""
    n_classes = shares.shape[1]
    counts = np.bincount(labels * n_classes + shares.argmax(axis=1), minlength=n_classes**2)
    table: list[list[int]] = counts.reshape(n_classes, n_classes).tolist()
    return table


def fold_aucs(labels: Indices, shares: Shares, folds: Sequence[Indices]) -> list[float | None]:
    """Macro AUC within each fold; None where its tiles are all of one class."""
    return [
        float(macro_auc(labels[fold], shares[fold], once(len(fold)))[0])
        if len(np.unique(labels[fold])) > 1
        else None
        for fold in folds
    ]
