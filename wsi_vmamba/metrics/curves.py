"""Ranks, and the points of ROC and precision-recall curves, in NumPy alone: scikit-learn takes seconds to import."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.base import Labels, Scores
from wsi_vmamba.metrics.bootstrap import cumulative_counts

_Numbers = NDArray[np.float64]


def midranks(scores: Scores) -> _Numbers:
    """Rank of each score within its row (K, N), from 1; equal ones share the mean of their ranks."""
    ranks = np.empty(scores.shape)
    for row, ranked in zip(scores, ranks, strict=True):
        _, places, counts = np.unique(row, return_inverse=True, return_counts=True)
        ranked[:] = (counts.cumsum() - (counts - 1) / 2)[places]
    return ranks


def roc_corners(labels: Labels, scores: Scores) -> tuple[_Numbers, _Numbers, _Numbers]:
    """False positive rate, true positive rate and threshold at every distinct score, falling.

    The first point is (0, 0) at the threshold infinity, which calls nothing.
    """
    true, false = _counts(labels, scores)
    return (
        np.append(0.0, false / false[-1]),
        np.append(0.0, true / true[-1]),
        np.append(np.inf, np.unique(scores)[::-1]),
    )


def precision_and_recall(labels: Labels, scores: Scores) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Precision, recall and threshold at every distinct score, rising.

    The last point is precision 1 and recall 0 at the threshold infinity, which calls nothing.
    """
    true, false = _counts(labels, scores)
    return (
        np.append((true / (true + false))[::-1], 1.0),
        np.append((true / true[-1])[::-1], 0.0),
        np.append(np.unique(scores), np.inf),
    )


def _counts(labels: Labels, scores: Scores) -> tuple[_Numbers, _Numbers]:
    """True and false positives, each (K,), at the K distinct scores, falling."""
    true, false = cumulative_counts(labels, scores, np.ones((1, len(scores))))
    return true[0], false[0]
