"""ROC AUC and average precision of slide scores, each with its 95 % interval, and the curves to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.metrics.base import Interval, Labels, Scores, check_binary, plain
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    FEWEST,
    BootstrapInterval,
    BootstrappedResult,
    Weights,
    bootstrapped,
    cumulative_counts,
    evaluate,
    smaller_class,
    stratified_bootstrap,
)
from wsi_vmamba.metrics.curves import precision_and_recall, roc_corners
from wsi_vmamba.metrics.delong import DelongInterval, delong_interval
from wsi_vmamba.metrics.ranking import ranking_note


@dataclass(frozen=True, kw_only=True)
class AucResult:
    """ROC AUC; ``ci95`` is DeLong's, cut to 0–1, with the bootstrap beside it.

    Where a class has a single slide there is no interval: ``delong`` is None and the ends are NaN.
    """

    value: float
    ci95: Interval
    n_positive: int
    n_negative: int
    delong: DelongInterval | None
    bootstrap: BootstrapInterval
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            "metric": "auc",
            "value": self.value,
            "ci95": plain(self.ci95),
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "delong": self.delong.to_dict() if self.delong else None,
            "bootstrap": self.bootstrap.to_dict(),
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a ROC curve (x false, y true positive rate) or of a PR curve (x recall, y precision)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Three lists, ready for JSON; the threshold of a point that calls nothing is null."""
        fields: dict[str, Any] = plain({"x": self.x, "y": self.y, "thresholds": self.thresholds})
        return fields


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a positive slide scores above a negative one, ties counting one half.

    Raises:
        MetricError: labels or scores are not usable, see `check_binary`.
    """
    label, score = check_binary(labels, scores)
    return evaluate(auc_statistic, label, score)


def auc(
    labels: ArrayLike, scores: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> AucResult:
    """ROC AUC with DeLong's and the stratified bootstrap's 95 % interval, without one where a class has one slide.

    Raises:
        MetricError: labels or scores are not usable.
    """
    label, score = check_binary(labels, scores)
    delong = delong_interval(label, score) if smaller_class(label) >= FEWEST else None
    return AucResult(
        value=roc_auc(label, score),
        ci95=delong.ci95 if delong else (math.nan, math.nan),
        n_positive=int(label.sum()),
        n_negative=int((1 - label).sum()),
        delong=delong,
        bootstrap=stratified_bootstrap(auc_statistic, label, score, resamples=resamples, seed=seed),
        note=ranking_note(label, score) if delong else _single_note(label),
    )


def _single_note(labels: Labels) -> str:
    single = "positive" if labels.sum() < FEWEST else "negative"
    return (
        f"there is one {single} slide, so no metric has a 95 % interval: one slide does not show how much slides "
        "differ; the values hold for these slides only"
    )


def average_precision(
    labels: ArrayLike, scores: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Average precision (area under the PR steps, no interpolation) with the bootstrap's 95 % interval."""
    label, score = check_binary(labels, scores)
    return bootstrapped(
        "average_precision",
        average_precision_statistic,
        label,
        score,
        resamples=resamples,
        seed=seed,
        settings={"prevalence": float(label.mean())},
    )


def roc_points(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """Every corner of the ROC curve, from (0, 0) to (1, 1)."""
    label, score = check_binary(labels, scores)
    false_rate, true_rate, thresholds = roc_corners(label, score)
    return Curve(x=false_rate, y=true_rate, thresholds=thresholds)


def precision_recall_points(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """Every point of the precision-recall curve, recall falling, ending at recall 0, precision 1."""
    label, score = check_binary(labels, scores)
    precision, recall, thresholds = precision_and_recall(label, score)
    return Curve(x=recall, y=precision, thresholds=thresholds)


def auc_statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
    """AUC (B,) when slides count ``weights`` (B, N) times."""
    true, false = cumulative_counts(labels, scores, weights)
    before = np.pad(true[:, :-1], ((0, 0), (1, 0)))
    here = np.diff(false, axis=1, prepend=0)
    # A negative slide is outranked by the positives above its score and half outranked by those at it.
    wins = ((before + true) / 2 * here).sum(axis=1)
    share: NDArray[np.float64] = wins / (true[:, -1] * false[:, -1])
    return share


def average_precision_statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
    """Average precision (B,) when slides count ``weights`` (B, N) times."""
    true, false = cumulative_counts(labels, scores, weights)
    gained = np.diff(true, axis=1, prepend=0)
    # Before the first slide that was drawn nothing is called; nothing is gained there either.
    precision = true / np.maximum(true + false, 1)
    area: NDArray[np.float64] = (precision * gained).sum(axis=1) / true[:, -1]
    return area
