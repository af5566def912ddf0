"""What every metric takes and gives: checked labels and scores in; value, interval and dict out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.errors import MetricError

#: 97.5 % point of the standard normal: half the width, in standard errors, of a 95 % interval.
Z95 = 1.959963984540054

Interval = tuple[float, float]
Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


@runtime_checkable
class MetricResult(Protocol):
    """What an entry of METRICS returns."""

    @property
    def value(self) -> float:
        """The metric on the given slides."""

    @property
    def ci95(self) -> Interval:
        """Lower and upper end of the 95 % confidence interval."""

    def to_dict(self) -> dict[str, Any]:
        """Everything known about the result, ready for JSON (NaN written as null)."""


def require_result(found: object, name: str) -> MetricResult:
    """Return what a metric of that name gave, or refuse it.

    Raises:
        MetricError: it is no result.
    """
    if not isinstance(found, MetricResult):
        raise MetricError(
            f"the metric {name} returned {type(found).__name__}; expected an object with value, ci95 and to_dict(), "
            "see wsi_vmamba.metrics.base.MetricResult"
        )
    return found


def check_binary(
    labels: ArrayLike, scores: ArrayLike, *, slide_ids: Sequence[str] | None = None
) -> tuple[Labels, Scores]:
    """Return labels as int64 zeros and ones and scores as float64, both of shape (N,), or say what is wrong.

    Args:
        labels: N labels, each 0/1 or False/True; 1 is the positive class.
        scores: N scores, higher meaning more likely positive. Any finite scale.
        slide_ids: N names, used to say which slide is at fault; a name that comes twice is an error.

    Raises:
        MetricError: shapes differ, a score is not finite, a label is not 0/1, a slide comes twice, or only
            one class is present.
    """
    score = _as_scores(scores)
    label = _as_labels(labels)
    if len(label) != len(score):
        raise MetricError(f"expected one score per label, got {len(label)} labels and {len(score)} scores")
    if slide_ids is not None:
        check_unique(slide_ids, expected=len(label))
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        raise MetricError(
            f"{len(bad)} of {len(score)} scores are not finite: {_name_rows(bad, slide_ids, score)}; "
            "a slide without a score must be left out or scored, not passed on"
        )
    positives = int(label.sum())
    if positives in (0, len(label)):
        raise MetricError(
            f"all {len(label)} labels are {label[0]}; the metric compares positive with negative slides "
            "and needs at least one of each"
        )
    return label, score


def check_unique(slide_ids: Sequence[str], *, expected: int) -> None:
    """Refuse a list of slides of the wrong length or with a slide in it twice.

    Raises:
        MetricError: naming the first few repeated slides.
    """
    if len(slide_ids) != expected:
        raise MetricError(f"expected one slide id per label, got {len(slide_ids)} ids and {expected} labels")
    twice = [name for name, count in Counter(slide_ids).items() if count > 1]
    if twice:
        shown = ", ".join(map(str, twice[:5])) + (", …" if len(twice) > 5 else "")
        raise MetricError(
            f"{len(twice)} slides are listed more than once ({shown}); each slide may count once"
        )


def are_probabilities(scores: Scores) -> bool:
    """Whether all scores lie in 0–1."""
    return bool(scores.min() >= 0 and scores.max() <= 1)


def check_probabilities(scores: Scores) -> None:
    """Refuse scores outside 0–1, for metrics that read them as probabilities."""
    if not are_probabilities(scores):
        raise MetricError(
            f"calibration needs probabilities in 0–1, got scores from {scores.min():g} to {scores.max():g}; "
            "pass the sigmoid or softmax of the logits"
        )


def clip_unit(interval: Interval) -> Interval:
    """Cut an interval to 0–1, where a share or an AUC lives."""
    return max(0.0, interval[0]), min(1.0, interval[1])


def wilson_interval(found: int, n: int) -> Interval:
    """Wilson's 95 % interval of a share ``found / n``; sound for small n and for shares at 0 and 1."""
    if n == 0:
        return math.nan, math.nan
    share, z2 = found / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def plain(value: Any) -> Any:
    """Turn numbers, arrays and containers into what JSON can hold; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _as_scores(scores: ArrayLike) -> Scores:
    try:
        score = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricError(f"scores must be numbers: {error}") from error
    if score.ndim != 1 or not score.size:
        raise MetricError(
            f"expected a flat, non-empty list of scores, got shape {score.shape}; "
            "if these are class probabilities, pass the column of the positive class"
        )
    return score


def _as_labels(labels: ArrayLike) -> Labels:
    raw = np.asarray(labels)
    if raw.ndim != 1:
        raise MetricError(f"expected a flat list of labels, got shape {raw.shape}")
    numeric = raw.dtype.kind in "biuf"
    if not numeric or not np.isin(raw, (0, 1)).all():
        odd = raw if not numeric else raw[~np.isin(raw, (0, 1))]
        found = ", ".join(repr(item) for item in sorted(set(odd.tolist()), key=str)[:5])
        raise MetricError(f"labels must be 0 or 1, found {found}; say which name is the positive class")
    return raw.astype(np.int64)


def _name_rows(rows: NDArray[np.intp], slide_ids: Sequence[str] | None, scores: Scores) -> str:
    named = [
        f"{slide_ids[row] if slide_ids is not None else f'row {row}'} ({scores[row]})" for row in rows[:5]
    ]
    return ", ".join(named) + (", …" if len(rows) > 5 else "")
