"""Lesion-level FROC exactly as the CAMELYON16 organisers compute it, and beside it without the quirks.

Two properties of the organisers' script change scores without saying anything about the detector. It drops
the smallest distinct probability, so a detector that finds every lesion and nothing else can score 0; and it
keeps the probability of a lesion in single precision while false positives stay in double, so equal
probabilities compare as unequal. ``value`` has both, as scores made with that script do;
``value_without_quirks`` has neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import Interval, plain
from wsi_vmamba.metrics.bootstrap import DEFAULT_SEED, FEWEST
from wsi_vmamba.metrics.detections import FrocSlide, SlideMatch, match_slide

#: False positives per slide at which the challenge reads the sensitivity.
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
FROC_RESAMPLES = 2_000

_ONE_SLIDE = (
    "lesions that count are on one slide only, so FROC has no 95 % interval: one slide does not show how much slides "
    "differ"
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FrocCurve:
    """The curve with the threshold rising, ending at (0, 0); counts first, then per slide and per lesion."""

    fp_counts: tuple[int, ...]
    tp_counts: tuple[int, ...]
    fps_per_slide: tuple[float, ...]
    sensitivity: tuple[float, ...]
    sensitivity_at_rates: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean sensitivity at the six rates; NaN where no lesion counts."""
        return math.fsum(self.sensitivity_at_rates) / len(RATES)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields: dict[str, Any] = plain({**self.__dict__, "rates": RATES, "score": self.score})
        return fields


@dataclass(frozen=True, kw_only=True)
class FrocResult:
    """FROC score of a set of slides; ``ci95`` comes from drawing slides, tumour and normal apart.

    It is NaN, and ``note`` says so, where lesions that count are on one slide only.
    """

    value: float
    ci95: Interval
    value_without_quirks: float
    ci95_without_quirks: Interval
    n_slides: int
    n_lesions: int
    curve: FrocCurve
    curve_without_quirks: FrocCurve
    slides: tuple[SlideMatch, ...]
    resamples: int
    seed: int
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores, each labelled, both curves and one entry per slide, ready for JSON (NaN as null)."""
        fields: dict[str, Any] = plain(
            {
                "metric": "froc",
                "value": self.value,
                "froc_score": self.value,
                "ci95": self.ci95,
                "froc_score_without_quirks": self.value_without_quirks,
                "ci95_without_quirks": self.ci95_without_quirks,
                "about": {
                    "froc_score": "as the organisers' script computes it; compare published scores with this",
                    "froc_score_without_quirks": "smallest threshold kept, lesion probabilities in double",
                    "ci95": f"percentile interval, {self.resamples} draws of slides within tumour and normal",
                },
                "n_slides": self.n_slides,
                "n_lesions": self.n_lesions,
                "curve": self.curve.to_dict(),
                "curve_without_quirks": self.curve_without_quirks.to_dict(),
                "slides": [slide.to_dict() for slide in self.slides],
                "resamples": self.resamples,
                "seed": self.seed,
                "note": self.note,
            }
        )
        return fields


def froc(
    slides: Sequence[FrocSlide], *, resamples: int = FROC_RESAMPLES, seed: int = DEFAULT_SEED
) -> FrocResult:
    """Compute the FROC score of slides, each with its list of detections, which may be empty.

    Args:
        slides: all slides that count, tumour and normal; their number divides the false positives.
        resamples: bootstrap draws for the intervals; at least 100.
        seed: of the bootstrap.

    Raises:
        MetricError: no slides, a slide twice, a detection of a tumour slide outside its mask.
    """
    if not slides:
        raise MetricError("FROC needs at least one slide with a list of detections, got none")
    if resamples < 100:
        raise MetricError(f"a 95 % bootstrap interval needs at least 100 resamples, got {resamples}")
    names = [slide.name for slide in slides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MetricError(
            f"slides are listed more than once: {', '.join(twice[:5])}; each slide may count once"
        )
    matches = tuple(match_slide(slide) for slide in slides)
    official, plain_curve = official_curve(matches), curve_without_quirks(matches)
    intervals = _bootstrap(matches, resamples=resamples, seed=seed)
    return FrocResult(
        value=official.score,
        ci95=intervals[0],
        value_without_quirks=plain_curve.score,
        ci95_without_quirks=intervals[1],
        n_slides=len(matches),
        n_lesions=sum(match.n_counted for match in matches),
        curve=official,
        curve_without_quirks=plain_curve,
        slides=matches,
        resamples=resamples,
        seed=seed,
        note=_ONE_SLIDE if _n_with_lesions(matches) == 1 else None,
    )


def official_curve(matches: Sequence[SlideMatch]) -> FrocCurve:
    """Rules 13 to 15: lesions in single precision, the smallest distinct probability dropped."""
    return _curve(matches, single_precision=True, drop_smallest=True)


def curve_without_quirks(matches: Sequence[SlideMatch]) -> FrocCurve:
    """Every probability a detection has is a threshold; lesions and false positives compare in double."""
    return _curve(matches, single_precision=False, drop_smallest=False)


def _curve(matches: Sequence[SlideMatch], *, single_precision: bool, drop_smallest: bool) -> FrocCurve:
    false = np.sort(np.concatenate([match.false_positive_probabilities for match in matches]))
    lesions = np.sort(
        np.concatenate([match.lesion_probabilities(single=single_precision) for match in matches])
    )
    thresholds = np.unique(np.concatenate([false, lesions]))
    if drop_smallest:
        thresholds = thresholds[1:]
    else:
        # A lesion without a hit stands at 0, which no detection needs to have reached.
        thresholds = thresholds[np.isin(thresholds, np.concatenate([false, lesions[lesions > 0]]))]
    rounded = thresholds.astype(np.float32).astype(np.float64) if single_precision else thresholds
    found = len(lesions) - np.searchsorted(lesions, rounded, side="left")
    if not drop_smallest:
        found = np.minimum(found, int((lesions > 0).sum()))
    fp_counts = np.append(len(false) - np.searchsorted(false, thresholds, side="left"), 0)
    tp_counts = np.append(found, 0)
    return _per_slide(
        fp_counts, tp_counts, n_slides=len(matches), n_lesions=sum(match.n_counted for match in matches)
    )


def _per_slide(
    fp_counts: NDArray[np.int64], tp_counts: NDArray[np.int64], *, n_slides: int, n_lesions: int
) -> FrocCurve:
    fps: Floats = fp_counts / n_slides
    sensitivity: Floats = tp_counts / n_lesions if n_lesions else np.full(len(tp_counts), np.nan)
    return FrocCurve(
        fp_counts=tuple(fp_counts.tolist()),
        tp_counts=tuple(tp_counts.tolist()),
        fps_per_slide=tuple(fps.tolist()),
        sensitivity=tuple(sensitivity.tolist()),
        sensitivity_at_rates=tuple(np.interp(RATES, fps[::-1], sensitivity[::-1]).tolist()),
    )


def _bootstrap(matches: Sequence[SlideMatch], *, resamples: int, seed: int) -> tuple[Interval, Interval]:
    """95 % intervals of the official score and of the one without quirks, from the same draws."""
    if _n_with_lesions(matches) < FEWEST:
        return (math.nan, math.nan), (math.nan, math.nan)
    generator = np.random.default_rng(seed)
    strata = [[match for match in matches if match.is_tumor is tumor] for tumor in (True, False)]
    drawn: list[tuple[float, float]] = []
    while len(drawn) < resamples:
        sample = [
            stratum[index]
            for stratum in strata
            if stratum
            for index in generator.integers(0, len(stratum), len(stratum))
        ]
        # A draw of tumour slides that hold only isolated tumour cells has no sensitivity.
        if any(match.n_counted for match in sample):
            drawn.append((official_curve(sample).score, curve_without_quirks(sample).score))
    scores = np.asarray(drawn)
    return _percentiles(scores[:, 0]), _percentiles(scores[:, 1])


def _n_with_lesions(matches: Sequence[SlideMatch]) -> int:
    """Slides with a lesion that counts."""
    return sum(match.n_counted > 0 for match in matches)


def _percentiles(values: Floats) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
