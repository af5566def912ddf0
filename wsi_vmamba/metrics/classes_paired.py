"""Whether two methods differ in macro AUC on the same slides, by the paired bootstrap; DeLong knows two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.auc import auc_statistic
from wsi_vmamba.metrics.base import Interval, Labels, Scores, plain
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    BootstrapInterval,
    Weights,
    stratified_bootstrap,
)
from wsi_vmamba.metrics.classes import check_classes, macro_auc, macro_statistic


@dataclass(frozen=True, kw_only=True)
class MacroPaired:
    """Two macro AUCs on the same slides and their difference a − b, both drawn by the same slides each time."""

    auc_a: float
    auc_b: float
    ci95_a: Interval
    ci95_b: Interval
    bootstrap: BootstrapInterval

    @property
    def difference(self) -> float:
        """Of the slides themselves."""
        return self.bootstrap.value

    @property
    def ci95(self) -> Interval:
        """Percentile interval of the difference."""
        return self.bootstrap.ci95

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(
            {
                "auc_a": self.auc_a,
                "auc_b": self.auc_b,
                "ci95_a": self.ci95_a,
                "ci95_b": self.ci95_b,
                "difference": self.difference,
                "ci95": self.ci95,
                "bootstrap": self.bootstrap.to_dict(),
            }
        )
        return fields


def macro_auc_paired(
    labels: ArrayLike,
    shares_a: ArrayLike,
    shares_b: ArrayLike,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> MacroPaired:
    """Difference of two macro AUCs with its interval, stratified by class.

    Args:
        labels: numbers of classes, (N,).
        shares_a: probability of each class by the first method, (N, K).
        shares_b: by the second, (N, K), of the same slides in the same order.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MetricError: labels or probabilities are not usable, or the methods know different numbers of classes.
    """
    shapes = [np.shape(one) for one in (shares_a, shares_b)]
    if shapes[0] != shapes[1]:
        raise MetricError(f"both must have (slides, classes) alike, got {shapes[0]} and {shapes[1]}")
    label, a = check_classes(labels, shares_a)
    _, b = check_classes(labels, shares_b)
    n_classes, macro = a.shape[1], macro_statistic(auc_statistic)

    def statistic(labels: Labels, both: Scores, weights: Weights) -> NDArray[np.float64]:
        return macro(labels, both[:, :n_classes], weights) - macro(labels, both[:, n_classes:], weights)

    spread = stratified_bootstrap(
        statistic, label, np.concatenate([a, b], axis=1), resamples=resamples, seed=seed
    )
    of_a, of_b = (macro_auc(label, one, resamples=resamples, seed=seed) for one in (a, b))
    return MacroPaired(
        auc_a=of_a.value, auc_b=of_b.value, ci95_a=of_a.ci95, ci95_b=of_b.ci95, bootstrap=spread
    )
