"""95 % intervals by drawing whole groups, the same draws for every encoder, so that differences are paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.probing.scores import METRICS, Draws, Predictions, value_of

#: With fewer groups, tiles are drawn within each: a handful of groups does not show how much groups differ.
FEWEST_GROUPS = 5
#: Weights held at once: memory is bounded whatever the number of tiles and resamples.
_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, None where there is none."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is all on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Metrics of one encoder.

    Attributes:
        metrics: name -> value with its interval.
        differences: name -> this encoder minus the first, paired; empty of the first.
        used: share of the resamples in which every class was drawn.
    """

    metrics: dict[str, Estimate]
    differences: dict[str, Estimate]
    used: float


def how_drawn(groups: NDArray[np.str_]) -> str:
    """What is drawn for the intervals: "groups", or "tiles within groups" where there are too few."""
    return "groups" if len(np.unique(groups)) >= FEWEST_GROUPS else "tiles within groups"


def draw(groups: NDArray[np.str_], *, resamples: int, seed: int) -> Iterator[Draws]:
    """Yield resamples, some at a time."""
    rng = np.random.default_rng(seed)
    names, group_of = np.unique(groups, return_inverse=True)
    chunk = max(1, _CHUNK_NUMBERS // len(groups))
    whole = how_drawn(groups) == "groups"
    # Where each tile is a group there are no pairs within groups, and nothing to keep of the copies.
    keep = whole and len(names) < len(groups)
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        if whole:
            copies = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n).astype(
                np.float64
            )
            yield Draws(weights=copies[:, group_of], copies=copies if keep else None, group_of=group_of)
            continue
        weights = np.zeros((n, len(groups)))
        for one in range(len(names)):
            places = np.flatnonzero(group_of == one)
            weights[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=n)
        yield Draws(weights=weights, copies=None, group_of=group_of)


def compare_encoders(
    predictions: Sequence[Predictions], groups: NDArray[np.str_], *, resamples: int, seed: int
) -> list[Comparison]:
    """Metrics of each encoder with intervals, and its differences from the first; same tiles, same draws."""
    _, group_of = np.unique(groups, return_inverse=True)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in METRICS}
    for resample in draw(groups, resamples=resamples, seed=seed):
        for name, metric in METRICS.items():
            found[name].append(np.stack([metric(one, resample) for one in predictions]))
    drawn = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    values = {
        name: [value_of(metric, one, group_of) for one in predictions] for name, metric in METRICS.items()
    }
    return [_compared(place, values, drawn) for place in range(len(predictions))]


def _compared(
    place: int, values: Mapping[str, list[float]], drawn: Mapping[str, NDArray[np.float64]]
) -> Comparison:
    metrics = {name: _estimate(values[name][place], drawn[name][place]) for name in values}
    differences = {
        name: _estimate(values[name][place] - values[name][0], drawn[name][place] - drawn[name][0])
        for name in values
        if place
    }
    used = float(np.isfinite(drawn["auc"][place]).mean())
    return Comparison(metrics=metrics, differences=differences, used=used)


def _estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    """Percentiles of the draws in which every class was there; none where those are fewer than half."""
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws):
        return Estimate(value=value, low=None, high=None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))
