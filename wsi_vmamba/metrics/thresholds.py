"""Metrics at one threshold, which is chosen on validation slides and then applied to test slides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.metrics.base import Interval, Labels, Scores, check_binary, plain, wilson_interval
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    BootstrappedResult,
    Weights,
    bootstrapped,
    cumulative_counts,
    stratified_bootstrap,
)


@dataclass(frozen=True, kw_only=True)
class ThresholdResult:
    """What calling slides with ``score >= threshold`` positive gets right; ``value`` is balanced accuracy."""

    threshold: float
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    ci95: Interval

    @property
    def sensitivity(self) -> float:
        """Share of the positive slides that are called."""
        return self.true_positive / (self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        """Share of the negative slides that are not called."""
        return self.true_negative / (self.true_negative + self.false_positive)

    @property
    def value(self) -> float:
        """Balanced accuracy: mean of sensitivity and specificity."""
        return (self.sensitivity + self.specificity) / 2

    def to_dict(self) -> dict[str, Any]:
        """Confusion counts and everything derived from them; a share without a denominator is null."""
        tp, fp, tn, fn = self.true_positive, self.false_positive, self.true_negative, self.false_negative
        fields: dict[str, Any] = plain(
            {
                "metric": "balanced_accuracy",
                "value": self.value,
                "ci95": self.ci95,
                "threshold": self.threshold,
                "confusion": {"tp": tp, "fp": fp, "tn": tn, "fn": fn},
                "sensitivity": self.sensitivity,
                "sensitivity_ci95": wilson_interval(tp, tp + fn),
                "specificity": self.specificity,
                "specificity_ci95": wilson_interval(tn, tn + fp),
                "accuracy": (tp + tn) / (tp + tn + fp + fn),
                "positive_predictive_value": tp / (tp + fp) if tp + fp else math.nan,
                "negative_predictive_value": tn / (tn + fn) if tn + fn else math.nan,
                "f1": 2 * tp / (2 * tp + fp + fn),
            }
        )
        return fields


@dataclass(frozen=True, kw_only=True)
class GroupRecall:
    """How well the positive slides of one group (a metastasis size, say) are found."""

    group: str
    n: int
    found: int
    recall: float
    recall_ci95: Interval
    auc_against_negative: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(self.__dict__)
        return fields


def choose_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold with the highest balanced accuracy; call it with VALIDATION slides.

    The threshold lies half way between two scores, so that a slide a rounding error away keeps its side. Of
    several equally good ones the lowest is taken, the one with the highest sensitivity.
    """
    label, score = check_binary(labels, scores)
    true, false = cumulative_counts(label, score, np.ones((1, len(label))))
    youden = true[0] / true[0, -1] - false[0] / false[0, -1]
    best = int(np.flatnonzero(youden >= youden.max() - 1e-12)[-1])
    falling = np.unique(score)[::-1]
    if best + 1 == len(falling):
        return float(falling[best])
    middle = float(falling[best] / 2 + falling[best + 1] / 2)
    # Between two neighbouring doubles there is no middle.
    return middle if falling[best + 1] < middle <= falling[best] else float(falling[best])


def at_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    threshold: float,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> ThresholdResult:
    """Confusion counts and balanced accuracy (bootstrap interval) of calling ``score >= threshold``."""
    label, score = check_binary(labels, scores)
    called = score >= threshold
    spread = stratified_bootstrap(
        _balanced_accuracy_statistic, label, called.astype(np.float64), resamples=resamples, seed=seed
    )
    return ThresholdResult(
        threshold=float(threshold),
        true_positive=int((called & (label == 1)).sum()),
        false_positive=int((called & (label == 0)).sum()),
        true_negative=int((~called & (label == 0)).sum()),
        false_negative=int((~called & (label == 1)).sum()),
        ci95=spread.ci95,
    )


def sensitivity_at_specificity(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    specificity: float = 0.9,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> BootstrappedResult:
    """Highest sensitivity among the thresholds whose specificity is at least ``specificity``.

    It reads the operating point off the ROC curve of the same slides, so it describes the curve; it is not
    the performance of a threshold fixed beforehand (see `at_threshold`).
    """
    if not 0 < specificity <= 1:
        raise MetricError(f"specificity must lie above 0 and at most at 1, got {specificity}")
    label, score = check_binary(labels, scores)

    def statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
        true, false = cumulative_counts(labels, scores, weights)
        # 0.9 of 80 slides must allow 8 false calls, though 1 - 0.9 is a little less than 0.1.
        allowed = false <= (1 - specificity) * false[:, -1:] + 1e-9
        best: NDArray[np.float64] = np.where(allowed, true, 0.0).max(axis=1) / true[:, -1]
        return best

    return bootstrapped(
        "sensitivity_at_specificity",
        statistic,
        label,
        score,
        resamples=resamples,
        seed=seed,
        settings={"specificity": specificity},
    )


def recall_by_group(
    labels: ArrayLike, scores: ArrayLike, groups: Sequence[str], *, threshold: float
) -> list[GroupRecall]:
    """Recall at ``threshold`` and AUC against all negative slides, for each group of positive slides.

    Args:
        labels: zeros and ones, shape (N,).
        scores: shape (N,).
        groups: N group names; those of negative slides are not looked at.
        threshold: slides with ``score >= threshold`` are called.
    """
    label, score = check_binary(labels, scores)
    if len(groups) != len(label):
        raise MetricError(f"expected one group per label, got {len(groups)} groups and {len(label)} labels")
    named = np.asarray(groups, dtype=object)
    return [
        _group_recall(
            label, score, member=(named == group) & (label == 1), group=str(group), threshold=threshold
        )
        for group in sorted(set(named[label == 1]))
    ]


def _group_recall(
    labels: Labels, scores: Scores, *, member: NDArray[np.bool_], group: str, threshold: float
) -> GroupRecall:
    found, n = int((scores[member] >= threshold).sum()), int(member.sum())
    kept = member | (labels == 0)
    return GroupRecall(
        group=group,
        n=n,
        found=found,
        recall=found / n,
        recall_ci95=wilson_interval(found, n),
        auc_against_negative=roc_auc(labels[kept], scores[kept]),
    )


def _balanced_accuracy_statistic(labels: Labels, called: Scores, weights: Weights) -> NDArray[np.float64]:
    positive = labels == 1
    sensitivity = weights[:, positive] @ called[positive] / positive.sum()
    specificity = weights[:, ~positive] @ (1 - called[~positive]) / (~positive).sum()
    balanced: NDArray[np.float64] = (sensitivity + specificity) / 2
    return balanced
