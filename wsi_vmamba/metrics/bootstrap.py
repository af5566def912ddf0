"""Stratified bootstrap: the slides of each class are drawn apart, each class always in full number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import Interval, Labels, Scores, plain

DEFAULT_RESAMPLES = 10_000
DEFAULT_SEED = 20161116
#: Slides of each class that an interval needs: one slide says nothing of how much slides differ.
FEWEST = 2
#: Weights held at once; bounds memory whatever the number of slides and resamples.
_CHUNK_NUMBERS = 4_000_000

Weights = NDArray[np.float64]
#: ``f(labels (N,), scores (N,), weights (B, N)) -> (B,)``: the metric when slide i counts ``weights[b, i]``
#: times.
Statistic = Callable[[Labels, Scores, Weights], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """Percentile interval of a metric over stratified resamples; NaN where a class has fewer than two slides."""

    value: float
    ci95: Interval
    mean: float
    se: float
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(self.__dict__)
        return fields


@dataclass(frozen=True, kw_only=True)
class BootstrappedResult:
    """A metric whose 95 % interval comes from the stratified bootstrap alone; ``settings`` shaped it."""

    name: str
    bootstrap: BootstrapInterval
    settings: Mapping[str, float]

    @property
    def value(self) -> float:
        """The metric on the slides themselves."""
        return self.bootstrap.value

    @property
    def ci95(self) -> Interval:
        """Percentile interval of the resamples."""
        return self.bootstrap.ci95

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain(
            {
                "metric": self.name,
                "value": self.value,
                "ci95": self.ci95,
                "bootstrap": self.bootstrap.to_dict(),
                **self.settings,
            }
        )
        return fields


def stratified_bootstrap(
    statistic: Statistic,
    labels: Labels,
    scores: Scores,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> BootstrapInterval:
    """Estimate the spread of ``statistic`` by drawing slides with replacement within each class.

    Args:
        statistic: the metric as a function of how often each slide counts.
        labels: zeros and ones as `check_binary` returns them, or numbers of several classes, shape (N,).
        scores: shape (N,), or of several classes (N, K).
        resamples: number of resamples, at least 100 for a 95 % interval to mean anything.
        seed: the interval is a function of it and of the order of the slides within each class.

    Returns:
        The value with its interval, which is NaN where a class has fewer than two slides.
    """
    if resamples < 100:
        raise MetricError(f"a 95 % bootstrap interval needs at least 100 resamples, got {resamples}")
    value = evaluate(statistic, labels, scores)
    if smaller_class(labels) < FEWEST:
        # The one slide would be drawn every time: the interval would leave out what is least known.
        none = (math.nan, math.nan)
        return BootstrapInterval(
            value=value, ci95=none, mean=math.nan, se=math.nan, resamples=resamples, seed=seed
        )
    draws = np.concatenate(
        [statistic(labels, scores, weights) for weights in resample(labels, resamples=resamples, seed=seed)]
    )
    low, high = np.percentile(draws, [2.5, 97.5])
    return BootstrapInterval(
        value=value,
        ci95=(float(low), float(high)),
        mean=float(draws.mean()),
        se=float(draws.std(ddof=1)),
        resamples=resamples,
        seed=seed,
    )


def bootstrapped(
    name: str,
    statistic: Statistic,
    labels: Labels,
    scores: Scores,
    *,
    resamples: int,
    seed: int,
    settings: Mapping[str, float] | None = None,
) -> BootstrappedResult:
    """Value and interval of a metric that is nothing but a ``statistic``, for labels and scores already checked."""
    spread = stratified_bootstrap(statistic, labels, scores, resamples=resamples, seed=seed)
    return BootstrappedResult(name=name, bootstrap=spread, settings=settings or {})


def smaller_class(labels: Labels) -> int:
    """Number of slides of the class that has fewest, of the classes that there are."""
    return int(np.unique(labels, return_counts=True)[1].min())


def evaluate(statistic: Statistic, labels: Labels, scores: Scores) -> float:
    """Value of ``statistic`` on the slides themselves, each counting once."""
    return float(statistic(labels, scores, np.ones((1, len(labels))))[0])


def cumulative_counts(
    labels: Labels, scores: Scores, weights: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true and false positives, each (B, K), at the K distinct scores as thresholds, falling."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    positive = labels[order] == 1
    ordered = weights[:, order]
    true = np.add.reduceat(np.where(positive, ordered, 0.0), starts, axis=1)
    false = np.add.reduceat(np.where(positive, 0.0, ordered), starts, axis=1)
    return true.cumsum(axis=1), false.cumsum(axis=1)


def resample(labels: Labels, *, resamples: int, seed: int) -> Iterator[Weights]:
    """Yield how often each slide is drawn, (B, N) at a time; the last class is drawn first."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)[::-1]]
    chunk = max(1, _CHUNK_NUMBERS // len(labels))
    for start in range(0, resamples, chunk):
        weights = np.zeros((min(chunk, resamples - start), len(labels)))
        for row in weights:
            for members in classes:
                drawn = generator.integers(0, len(members), len(members))
                row[members] = np.bincount(drawn, minlength=len(members))
        yield weights
