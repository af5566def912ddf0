"""Metrics of more than two classes: each class against the rest, and all of them in one number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.auc import AucResult, auc, auc_statistic, average_precision_statistic, roc_auc
from wsi_vmamba.metrics.base import Interval, Labels, Scores, plain, wilson_interval
from wsi_vmamba.metrics.bootstrap import (
    DEFAULT_RESAMPLES,
    DEFAULT_SEED,
    BootstrapInterval,
    BootstrappedResult,
    Statistic,
    Weights,
    bootstrapped,
    stratified_bootstrap,
)
from wsi_vmamba.metrics.calibration import DEFAULT_BINS, ReliabilityBin, bins_of, calibration_gap

#: How far from 1 the probabilities of a slide may sum up to: they may have been rounded.
_SUM_TOLERANCE = 1e-3


def check_classes(labels: ArrayLike, shares: ArrayLike) -> tuple[Labels, Scores]:
    """Return labels (N,) as int64 and probabilities (N, K) as float64, or say what is wrong.

    Args:
        labels: N numbers of classes, 0 to K - 1, each of which some slide has.
        shares: probability of each class, rows that sum to 1.

    Raises:
        MetricError: shapes differ, a row is no distribution, or a class has no slide.
    """
    label, share = np.asarray(labels), np.asarray(shares, dtype=np.float64)
    if share.ndim != 2 or share.shape[1] < 2 or label.shape != share.shape[:1]:
        raise MetricError(
            f"expected labels (N,) and probabilities (N, classes), got {label.shape} and {share.shape}"
        )
    if label.dtype.kind not in "biu" or not np.isin(label, range(share.shape[1])).all():
        raise MetricError(f"labels must be whole numbers from 0 to {share.shape[1] - 1}")
    odd = ~np.isfinite(share).all(axis=1) | (share < 0).any(axis=1)
    odd |= ~(np.abs(share.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if odd.any():
        raise MetricError(
            f"{int(odd.sum())} of {len(share)} rows are no probabilities of classes, for example "
            f"{share[odd][0].tolist()}; expected numbers from 0 to 1 that sum to 1"
        )
    absent = sorted(set(range(share.shape[1])) - set(label.tolist()))
    if absent:
        raise MetricError(
            f"no slide is of class {', '.join(map(str, absent))}; every class needs slides to be judged by"
        )
    return label.astype(np.int64), share


def macro_roc_auc(labels: ArrayLike, shares: ArrayLike) -> float:
    """Mean, over the classes, of the AUC of each class against the rest."""
    label, share = check_classes(labels, shares)
    return float(np.mean([roc_auc(label == each, share[:, each]) for each in range(share.shape[1])]))


def macro_auc(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Macro AUC: the mean of the AUC of each class against the rest, each class counting the same."""
    return _macro("auc", auc_statistic, labels, shares, resamples=resamples, seed=seed)


def macro_average_precision(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Mean of the average precision of each class against the rest."""
    return _macro(
        "average_precision", average_precision_statistic, labels, shares, resamples=resamples, seed=seed
    )


def macro_statistic(of_two: Statistic) -> Statistic:
    """The mean of a metric of two classes over each class (N,) and its column of the probabilities (N, K)."""

    def statistic(labels: Labels, shares: Scores, weights: Weights) -> NDArray[np.float64]:
        each = [of_two((labels == k).astype(np.int64), shares[:, k], weights) for k in range(shares.shape[1])]
        mean: NDArray[np.float64] = np.mean(each, axis=0)
        return mean

    return statistic


def _macro(
    name: str, of_two: Statistic, labels: ArrayLike, shares: ArrayLike, *, resamples: int, seed: int
) -> BootstrappedResult:
    label, share = check_classes(labels, shares)
    return bootstrapped(
        name,
        macro_statistic(of_two),
        label,
        share,
        resamples=resamples,
        seed=seed,
        settings={"n_classes": share.shape[1]},
    )


def auc_by_class(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> tuple[AucResult, ...]:
    """AUC of each class against the rest, with DeLong's interval."""
    label, share = check_classes(labels, shares)
    return tuple(
        auc(label == each, share[:, each], resamples=resamples, seed=seed) for each in range(share.shape[1])
    )


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What calling the most probable class gets right; ``value`` is balanced accuracy, the mean recall of the classes.

    Attributes:
        counts: (K, K) int64, slides of a class (row) that were called another (column).
        bootstrap: of the balanced accuracy.
    """

    counts: NDArray[np.int64]
    bootstrap: BootstrapInterval

    @property
    def value(self) -> float:
        """Balanced accuracy."""
        return self.bootstrap.value

    @property
    def ci95(self) -> Interval:
        """Of the balanced accuracy, by the stratified bootstrap."""
        return self.bootstrap.ci95

    @property
    def recalls(self) -> tuple[float, ...]:
        """Share of the slides of each class that are called it."""
        return tuple((self.counts.diagonal() / self.counts.sum(axis=1)).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Counts and everything derived from them; a share without a denominator is null."""
        right, true, called = self.counts.diagonal(), self.counts.sum(axis=1), self.counts.sum(axis=0)
        precision = [hit / n if n else float("nan") for hit, n in zip(right, called, strict=True)]
        fields: dict[str, Any] = plain(
            {
                "metric": "balanced_accuracy",
                "value": self.value,
                "ci95": self.ci95,
                "confusion": self.counts,
                "recall": self.recalls,
                "recall_ci95": [
                    wilson_interval(int(hit), int(n)) for hit, n in zip(right, true, strict=True)
                ],
                "precision": precision,
                "accuracy": float(right.sum() / self.counts.sum()),
                "bootstrap": self.bootstrap.to_dict(),
            }
        )
        return fields


def balanced_accuracy(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> Confusion:
    """Confusion and balanced accuracy of calling the most probable class, the first of equally probable ones."""
    label, share = check_classes(labels, shares)
    called, n_classes = share.argmax(axis=1), share.shape[1]
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts, (label, called), 1)
    spread = stratified_bootstrap(_recall_statistic, label, called, resamples=resamples, seed=seed)
    return Confusion(counts=counts, bootstrap=spread)


def _recall_statistic(labels: Labels, called: Scores, weights: Weights) -> NDArray[np.float64]:
    right = weights * (called == labels)
    each = [
        right[:, labels == k].sum(axis=1) / weights[:, labels == k].sum(axis=1) for k in np.unique(labels)
    ]
    mean: NDArray[np.float64] = np.mean(each, axis=0)
    return mean


def brier(
    labels: ArrayLike, shares: ArrayLike, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> BootstrappedResult:
    """Brier's score: squared differences of probability and truth, summed over the classes: 0 is perfect, 2 worst."""
    label, share = check_classes(labels, shares)
    truth = np.eye(share.shape[1])[label]
    missed = np.square(share - truth).sum(axis=1)
    return bootstrapped("brier", _mean_statistic, label, missed, resamples=resamples, seed=seed)


def _mean_statistic(labels: Labels, values: Scores, weights: Weights) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = weights @ values / len(labels)
    return mean


def ece(
    labels: ArrayLike,
    shares: ArrayLike,
    *,
    n_bins: int = DEFAULT_BINS,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> BootstrappedResult:
    """Expected calibration error of the class that is called: gap between its probability and how often it is right."""
    label, share = check_classes(labels, shares)
    right, top = share.argmax(axis=1) == label, share.max(axis=1)
    gap = partial(_gap_statistic, right=right, top=top, n_bins=n_bins)
    return bootstrapped("ece", gap, label, top, resamples=resamples, seed=seed, settings={"n_bins": n_bins})


def _gap_statistic(
    labels: Labels, scores: Scores, weights: Weights, *, right: NDArray[np.bool_], top: Scores, n_bins: int
) -> NDArray[np.float64]:
    del labels, scores
    return calibration_gap(right.astype(np.int64), top, weights, n_bins=n_bins)


@dataclass(frozen=True, kw_only=True)
class ClassPanel:
    """Slide-level metrics of more than two classes.

    Attributes:
        classes: names of the classes, in the order of their numbers.
        auc: macro AUC.
        by_class: of each class against the rest.
        average_precision: macro.
        called: confusion and balanced accuracy of the most probable class.
        brier: of all classes.
        ece: of the class that is called.
        bins: how often the called class is right, by its probability.
        notes: what else there is to know.
    """

    classes: tuple[str, ...]
    auc: BootstrappedResult
    by_class: tuple[AucResult, ...]
    average_precision: BootstrappedResult
    called: Confusion
    brier: BootstrappedResult
    ece: BootstrappedResult
    bins: tuple[ReliabilityBin, ...]
    notes: tuple[str, ...]

    def results(self) -> dict[str, Any]:
        """Results by the names that CLASS_METRICS has for them."""
        return {
            "auc": self.auc,
            "average_precision": self.average_precision,
            "balanced_accuracy": self.called,
            "brier": self.brier,
            "ece": self.ece,
        }

    def to_dict(self) -> dict[str, Any]:
        """All metrics by name, ready for JSON."""
        return {
            "classes": list(self.classes),
            **{name: result.to_dict() for name, result in self.results().items()},
            "auc_by_class": {
                name: one.to_dict() for name, one in zip(self.classes, self.by_class, strict=True)
            },
            "calibration_bins": [one.to_dict() for one in self.bins],
            "notes": list(self.notes),
        }

    def rows(self) -> list[tuple[str, Any]]:
        """(what, result) of every metric with an interval, for a table on the screen."""
        return [
            ("macro AUC", self.auc),
            *(
                (f"AUC, {name} against the rest", one)
                for name, one in zip(self.classes, self.by_class, strict=True)
            ),
            ("macro average precision", self.average_precision),
            ("balanced accuracy", self.called),
            ("calibration error (ECE) of the called class", self.ece),
            ("Brier", self.brier),
        ]


def class_panel(
    labels: ArrayLike, shares: ArrayLike, *, classes: Sequence[str], resamples: int, seed: int
) -> ClassPanel:
    """Compute every metric of more than two classes.

    Args:
        labels: numbers of classes, shape (N,).
        shares: probability of each class, (N, K).
        classes: K names.
        resamples: of each bootstrap, which is stratified by class.
        seed: of each bootstrap.

    Raises:
        MetricError: labels or probabilities are not usable, or a class has no slide.
    """
    label, share = check_classes(labels, shares)
    how = {"resamples": resamples, "seed": seed}
    each = auc_by_class(label, share, **how)
    single = [name for number, name in enumerate(classes) if (label == number).sum() < 2]
    notes = [f"{name} has one slide, so no metric of all classes has a 95 % interval" for name in single]
    notes += [f"{name}: {one.note}" for name, one in zip(classes, each, strict=True) if one.note]
    right, top = (share.argmax(axis=1) == label).astype(np.int64), share.max(axis=1)
    return ClassPanel(
        classes=tuple(classes),
        auc=macro_auc(label, share, **how),
        by_class=each,
        average_precision=macro_average_precision(label, share, **how),
        called=balanced_accuracy(label, share, **how),
        brier=brier(label, share, **how),
        ece=ece(label, share, **how),
        bins=tuple(bins_of(right, top)),
        notes=tuple(notes),
    )
