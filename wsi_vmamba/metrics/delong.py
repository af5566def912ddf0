"""DeLong's variance of the ROC AUC, and the paired test for two scores on the same slides.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988; the placements are taken from midranks, so the cost is
that of a sort. With m positives and n negatives, V10 (m) holds for each positive the share of negatives it
outranks and V01 (n) for each negative the share of positives that outrank it, ties counting one half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import Z95, Interval, Labels, Scores, check_binary, clip_unit, plain
from wsi_vmamba.metrics.curves import midranks


@dataclass(frozen=True, kw_only=True)
class DelongInterval:
    """AUC with DeLong's variance; ``ci95`` is cut to 0–1, ``ci95_unclipped`` is not.

    ``ci95_logit`` is symmetric on the logit scale and stays inside 0–1; None where the AUC is 0 or 1.
    """

    auc: float
    variance: float
    se: float
    ci95: Interval
    ci95_unclipped: Interval
    ci95_logit: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(self.__dict__)
        return fields


@dataclass(frozen=True, kw_only=True)
class DelongPaired:
    """Two AUCs on the same slides: difference a − b, its variance, z and the two-sided p-value."""

    auc_a: float
    auc_b: float
    difference: float
    variance: float
    covariance: float
    z: float
    p_value: float
    ci95: Interval

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(self.__dict__)
        return fields


def delong_interval(labels: ArrayLike, scores: ArrayLike) -> DelongInterval:
    """Return the AUC with DeLong's 95 % interval.

    Raises:
        MetricError: labels or scores are not usable, or a class has fewer than two slides.
    """
    label, score = check_binary(labels, scores)
    auc, covariance = _auc_covariance(label, score[None])
    value, variance = float(auc[0]), float(covariance[0, 0])
    se = math.sqrt(variance)
    wald = (value - Z95 * se, value + Z95 * se)
    return DelongInterval(
        auc=value,
        variance=variance,
        se=se,
        ci95=clip_unit(wald),
        ci95_unclipped=wald,
        ci95_logit=_logit_interval(value, se),
    )


def delong_paired(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> DelongPaired:
    """Test whether two scores of the same slides have the same AUC.

    Args:
        labels: zeros and ones, shape (N,).
        scores_a: scores of the first method, shape (N,), in the order of the labels.
        scores_b: scores of the second method, shape (N,), in the same order.

    Raises:
        MetricError: the input is not usable, or the difference has no variance and yet is not zero.
    """
    label, a = check_binary(labels, scores_a)
    _, b = check_binary(labels, scores_b)
    aucs, covariance = _auc_covariance(label, np.stack([a, b]))
    difference = float(aucs[0] - aucs[1])
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    z = _z_score(difference, variance)
    half = Z95 * math.sqrt(variance)
    return DelongPaired(
        auc_a=float(aucs[0]),
        auc_b=float(aucs[1]),
        difference=difference,
        variance=variance,
        covariance=float(covariance[0, 1]),
        z=z,
        p_value=math.erfc(abs(z) / math.sqrt(2)),  # twice the upper tail of the standard normal
        ci95=(difference - half, difference + half),
    )


def _auc_covariance(labels: Labels, scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUCs (K,) and their covariance (K, K) of K score rows (K, N)."""
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise MetricError(
            f"DeLong's variance needs at least two slides of each class, got {m} positive and {n} negative"
        )
    rank_all = midranks(scores)
    rank_positive = midranks(scores[:, positive])
    rank_negative = midranks(scores[:, ~positive])
    v10 = (rank_all[:, positive] - rank_positive) / n
    v01 = 1 - (rank_all[:, ~positive] - rank_negative) / m
    covariance = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return v10.mean(axis=1), covariance


def _logit_interval(auc: float, se: float) -> Interval | None:
    if not 0 < auc < 1:
        return None
    centre = math.log(auc / (1 - auc))
    half = Z95 * se / (auc * (1 - auc))
    return 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))


def _z_score(difference: float, variance: float) -> float:
    # Rounding leaves about 1e-16 where two scores rank the slides alike.
    if variance > 1e-18:
        return difference / math.sqrt(variance)
    if abs(difference) < 1e-12:
        return 0.0
    raise MetricError(
        f"the AUCs differ by {difference:.3g} with no variance at all (both rank every pair the same way); "
        "DeLong's test does not apply"
    )
