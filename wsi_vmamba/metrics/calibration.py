"""Whether a score of 0.8 means eight in ten: Brier score, calibration error and reliability bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import (
    Interval,
    Labels,
    Scores,
    check_binary,
    check_probabilities,
    plain,
    wilson_interval,
)
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    BootstrappedResult,
    Weights,
    bootstrapped,
)

DEFAULT_BINS = 10


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The slides whose probability lies in [low, high), the last bin including its end."""

    low: float
    high: float
    n: int
    mean_probability: float
    positive_share: float
    positive_share_ci95: Interval

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(self.__dict__)
        return fields


def brier(
    labels: ArrayLike, scores: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Mean squared difference between probability and label; lower is better, 0 is perfect.

    Raises:
        MetricError: labels or scores are not usable, or a score is no probability.
    """
    label, score = check_binary(labels, scores)
    check_probabilities(score)

    def statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = weights @ (scores - labels) ** 2 / len(labels)
        return mean

    return bootstrapped("brier", statistic, label, score, resamples=resamples, seed=seed)


def ece(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    n_bins: int = DEFAULT_BINS,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> BootstrappedResult:
    """Expected calibration error: mean gap between probability and share of positives over equally wide bins.

    With few slides a bin the estimate is biased upwards, and the bootstrap more so, which is why its
    percentile interval may lie above the value; compare models by it, do not read it as absolute.

    Raises:
        MetricError: labels or scores are not usable, or a score is no probability.
    """
    label, score = check_binary(labels, scores)
    check_probabilities(score)

    def statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
        return calibration_gap(labels, scores, weights, n_bins=n_bins)

    return bootstrapped(
        "ece", statistic, label, score, resamples=resamples, seed=seed, settings={"n_bins": n_bins}
    )


def calibration_gap(labels: Labels, scores: Scores, weights: Weights, *, n_bins: int) -> NDArray[np.float64]:
    """Mean gap (B,) between score and share of label 1 when slides count ``weights`` (B, N) times."""
    member = (_bin_of(scores, n_bins)[:, None] == np.arange(n_bins)).astype(np.float64)
    # The gap of a bin times its share of the slides is the absolute sum of its differences.
    gaps: NDArray[np.float64] = np.abs(weights @ (member * (scores - labels)[:, None])).sum(axis=1)
    return gaps / len(labels)


def reliability_bins(
    labels: ArrayLike, scores: ArrayLike, *, n_bins: int = DEFAULT_BINS
) -> list[ReliabilityBin]:
    """The bins that hold at least one slide, from low to high probability, with Wilson intervals."""
    label, score = check_binary(labels, scores)
    check_probabilities(score)
    return bins_of(label, score, n_bins=n_bins)


def bins_of(label: Labels, score: Scores, *, n_bins: int = DEFAULT_BINS) -> list[ReliabilityBin]:
    """The bins of labels 0 and 1 and probabilities that were checked; either label may be missing."""
    bins = _bin_of(score, n_bins)
    return [
        ReliabilityBin(
            low=index / n_bins,
            high=(index + 1) / n_bins,
            n=int((bins == index).sum()),
            mean_probability=float(score[bins == index].mean()),
            positive_share=float(label[bins == index].mean()),
            positive_share_ci95=wilson_interval(int(label[bins == index].sum()), int((bins == index).sum())),
        )
        for index in np.unique(bins).tolist()
    ]


def _bin_of(scores: Scores, n_bins: int) -> NDArray[np.int64]:
    if n_bins < 2:
        raise MetricError(f"calibration needs at least two bins, got {n_bins}")
    edges = np.arange(1, n_bins) / n_bins
    return np.searchsorted(edges, scores, side="right").astype(np.int64)
