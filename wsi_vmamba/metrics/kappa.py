"""Quadratic weighted kappa: how far calls on an ordered scale agree with the truth, beyond chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import Labels, Scores
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    BootstrappedResult,
    Weights,
    bootstrapped,
)
from wsi_vmamba.metrics.classes import check_classes


def kappa(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Quadratic weighted kappa of the most probable class; the numbers of the classes are the scale.

    Args:
        labels: (N,).
        shares: (N, K), probability of each class.
        resamples: of the bootstrap, stratified by label.
        seed: of the bootstrap.

    Raises:
        MetricError: labels or probabilities are not usable.
    """
    label, share = check_classes(labels, shares)
    return kappa_of_calls(label, share.argmax(axis=1), resamples=resamples, seed=seed)


def kappa_of_calls(
    labels: ArrayLike, called: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Quadratic weighted kappa of labels and calls, both (N,) whole numbers on one scale; NaN where both never vary.

    Raises:
        MetricError: they are no whole numbers, or not as many.
    """
    label, call = np.asarray(labels), np.asarray(called)
    if label.ndim != 1 or label.shape != call.shape or not len(label):
        raise MetricError(f"expected labels and calls (N,), got {label.shape} and {call.shape}")
    if label.dtype.kind not in "biu" or call.dtype.kind not in "biu":
        raise MetricError(f"labels and calls must be whole numbers, got {label.dtype} and {call.dtype}")
    numbers = label.astype(np.int64), call.astype(np.float64)
    return bootstrapped("kappa", kappa_statistic, *numbers, resamples=resamples, seed=seed)


def kappa_statistic(labels: Labels, called: Scores, weights: Weights) -> NDArray[np.float64]:
    """Quadratic weighted kappa (B,) when slides count ``weights`` (B, N) times.

    With squared distances, what chance would give needs no table of the scale: over all pairs of a truth and a call the
    mean of (i - j)² is the mean of i² plus that of j² minus twice the product of both means.
    """
    truth, n = labels.astype(np.float64), weights.sum(axis=1)
    observed = weights @ np.square(truth - called)
    by_chance = (
        weights @ (np.square(truth) + np.square(called)) - 2 * (weights @ truth) * (weights @ called) / n
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.where(by_chance > 1e-9, 1 - observed / by_chance, np.nan)
    return found
