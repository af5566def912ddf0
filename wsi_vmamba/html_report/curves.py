"""Figures of slide scores, each with its numbers: drawn from what `evaluate` computed, nothing is computed anew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.html_report.charts import (
    Axis,
    Curve,
    chart,
    confusion_chart,
    count_axis,
    doubling_axis,
    steps,
    unit_axis,
)
from wsi_vmamba.html_report.markup import Html, details, figure, shown_number, table
from wsi_vmamba.metrics.auc import precision_recall_points, roc_points
from wsi_vmamba.metrics.base import Interval
from wsi_vmamba.metrics.froc import RATES, FrocCurve, FrocResult
from wsi_vmamba.metrics.panel import Calibration, SlidePanel
from wsi_vmamba.metrics.thresholds import ThresholdResult
from wsi_vmamba.report.plots import read_froc

#: Rows of a table of a curve; a longer one is thinned out, and says so.
MOST_ROWS = 400
#: Left end of the FROC's axis, half the first rate of the score.
_FROC_START = 1 / 8


def with_interval(value: float, ci95: Interval, digits: int = 4) -> str:
    """A value, and its interval where it has one."""
    if math.isnan(value) or math.isnan(ci95[0]):
        return shown_number(value, digits)
    return f"{value:.{digits}f} ({ci95[0]:.{digits}f}–{ci95[1]:.{digits}f})"


def roc_figure(slides: Sequence[tuple[str, ScoredSlides]], said: Sequence[str]) -> Html:
    """ROC curves, every corner of them.

    Args:
        slides: name and scores of each method.
        said: of each, its AUC in words.
    """
    curves = [Curve(name="", points=((0, 0), (1, 1)), colour=0, dashed=True)]
    tables = []
    for place, ((name, one), words) in enumerate(zip(slides, said, strict=True)):
        found = roc_points(one.labels, one.scores)
        points = tuple(zip(found.x.tolist(), found.y.tolist(), strict=True))
        legend = f"{name}: {words}" if len(slides) > 1 else words
        curves.append(Curve(name=legend, points=points, colour=place % 6 + 1))
        rows = [
            (shown_number(t) if math.isfinite(t) else "above all", shown_number(x), shown_number(y))
            for t, x, y in zip(found.thresholds.tolist(), found.x.tolist(), found.y.tolist(), strict=True)
        ]
        columns = ("score from", "1 − specificity", "sensitivity")
        of = f" of {name}" if len(slides) > 1 else ""
        tables.append(_numbers(columns, rows, caption=f"ROC curve{of}", summary=f"Numbers{of}"))
    says = "; ".join(said)
    drawn = chart(
        curves, title="ROC curve", says=says, x=unit_axis("1 − specificity"), y=unit_axis("Sensitivity")
    )
    return figure(drawn, f"ROC. {says}. Grey: chance.", *tables)


def precision_recall_figure(slides: ScoredSlides, panel: SlidePanel) -> Html:
    """Precision over recall, as steps."""
    found = precision_recall_points(slides.labels, slides.scores)
    corners = list(zip(found.x.tolist(), found.y.tolist(), strict=True))[::-1]
    prevalence = panel.average_precision.settings["prevalence"]
    words = f"AP {with_interval(panel.average_precision.value, panel.average_precision.ci95, 3)}"
    curves = [
        Curve(name="", points=((0, prevalence), (1, prevalence)), colour=0, dashed=True),
        Curve(name=words, points=steps(corners)),
    ]
    rows = [
        (shown_number(t) if math.isfinite(t) else "above all", shown_number(x), shown_number(y))
        for t, x, y in zip(found.thresholds.tolist(), found.x.tolist(), found.y.tolist(), strict=True)
    ]
    drawn = chart(
        curves, title="Precision and recall", says=words, x=unit_axis("Recall"), y=unit_axis("Precision")
    )
    return figure(
        drawn, f"Precision–recall. {words}. Grey: chance, {prevalence:.3f}.",
        _numbers(("score from", "recall", "precision"), rows, caption="Precision-recall curve"),
    )  # fmt: skip


def calibration_figure(found: Calibration, *, share: str = "Share of positive slides") -> Html:
    """Share of positives, or what ``share`` says, over the predicted probability."""
    curves = [
        Curve(name="", points=((0, 0), (1, 1)), colour=0, dashed=True),
        Curve(
            name="", points=tuple((one.mean_probability, one.positive_share) for one in found.bins), dots=True,
            line=False, bars=tuple(one.positive_share_ci95 for one in found.bins),
        ),
    ]  # fmt: skip
    words = f"ECE {found.ece.value:.3f}, Brier {found.brier.value:.3f}"
    rows = [
        (f"{one.low:g}–{one.high:g}", one.n, shown_number(one.mean_probability), shown_number(one.positive_share),
         "–".join(shown_number(end) for end in one.positive_share_ci95))
        for one in found.bins
    ]  # fmt: skip
    drawn = chart(
        curves, title="Calibration", says=words, x=unit_axis("Predicted probability"),
        y=unit_axis(share),
    )  # fmt: skip
    columns = ("probability", "slides", "mean probability", "positive share", "95 % interval")
    return figure(
        drawn, f"Calibration. {words}. On the grey line, 0.8 means eight in ten.",
        _numbers(columns, rows, caption="Reliability bins"),
    )  # fmt: skip


def confusion_figure(found: ThresholdResult) -> Html:
    """Counts at the threshold."""
    counts = {
        "tp": found.true_positive,
        "fp": found.false_positive,
        "tn": found.true_negative,
        "fn": found.false_negative,
    }
    rows = [
        ("negative", counts["tn"], counts["fp"]),
        ("positive", counts["fn"], counts["tp"]),
    ]
    return figure(
        confusion_chart(**counts), f"Slides called at {found.threshold:.4g}.",
        details("Numbers", table(("truth", "called negative", "called positive"), rows, caption="Confusion matrix")),
    )  # fmt: skip


def scores_figure(slides: ScoredSlides, threshold: float | None) -> Html:
    """Every slide's score, by its label, one dot over the other where they crowd."""
    curves = []
    tallest = 1
    for label in (0, 1):
        stacked = _stacked(slides.scores[slides.labels == label].tolist())
        tallest = max([tallest, *(height for _, height in stacked)])
        curves.append((label, stacked))
    low, high = min(0.0, float(slides.scores.min())), max(1.0, float(slides.scores.max()))
    x = Axis(name="Score", low=low, high=high, ticks=unit_axis("").ticks if (low, high) == (0, 1) else ())
    y = Axis(name="", low=0, high=2, ticks=((0.5, "neg."), (1.5, "pos.")))
    drawn = [
        Curve(
            name="", points=tuple((score, label + 0.08 + 0.84 * (height - 1) / tallest) for score, height in stacked),
            colour=2 if label else 1, dots=True, line=False,
        )
        for label, stacked in curves
    ]  # fmt: skip
    words = "" if threshold is None else f" Dashed: the threshold, {threshold:.4g}."
    picture = chart(
        drawn, title="Scores", says=f"{len(slides.labels)} slides by score and label.{words}", x=x, y=y,
        marks=() if threshold is None else (threshold,),
    )  # fmt: skip
    return figure(picture, f"Scores of all {len(slides.labels)} slides, by label.{words}")


def froc_figure(found: FrocResult) -> Html:
    """Lesions found over false positives a slide, as the organisers' script scores it and without its quirks."""
    axis = doubling_axis("Mean false positives per slide", (_FROC_START, *RATES))
    curves = []
    for name, curve, colour in (
        ("without quirks", found.curve_without_quirks, 2),
        ("as the organisers score", found.curve, 1),
    ):
        curves.append(Curve(name=name, points=_froc_points(curve), colour=colour, dashed=colour == 2))
    words = f"FROC {with_interval(found.value, found.ci95, 3)}"
    rows = [
        (f"{rate:g}", shown_number(a), shown_number(b))
        for rate, a, b in zip(
            RATES,
            found.curve.sensitivity_at_rates,
            found.curve_without_quirks.sensitivity_at_rates,
            strict=True,
        )
    ]
    drawn = chart(curves, title="FROC", says=words, x=axis, y=unit_axis("Sensitivity (lesions)"))
    columns = ("false positives per slide", "sensitivity", "without quirks")
    return figure(
        drawn, f"FROC. {words}; {found.n_lesions} lesions on {found.n_slides} slides.",
        _numbers(columns, rows, caption="Sensitivity at the six rates of the score"),
    )  # fmt: skip


def _froc_points(curve: FrocCurve) -> tuple[tuple[float, float], ...]:
    """The curve's own points and those between, which are straight over rates and not over their logarithms."""
    own = [rate for rate in curve.fps_per_slide if _FROC_START < rate < RATES[-1]]
    rates = np.unique([*np.geomspace(_FROC_START, RATES[-1], 97), *own])
    return tuple(zip(np.log2(rates).tolist(), read_froc(curve, rates).tolist(), strict=True))


def epochs_figure(
    name: str, series: Sequence[tuple[str, Sequence[float]]], epochs: Sequence[int], *, best: int, y: str
) -> Html:
    """Values by epoch, with a line at the epoch that was kept."""
    values = [value for _, one in series for value in one if math.isfinite(value)]
    curves = [
        Curve(
            name=label, colour=place + 1,
            points=tuple((e, v) for e, v in zip(epochs, one, strict=True) if math.isfinite(v)),
        )
        for place, (label, one) in enumerate(series)
    ]  # fmt: skip
    high = max(values, default=1.0)
    drawn = chart(
        curves, title=name, says=f"{len(epochs)} epochs, kept {best}", marks=(best,),
        x=count_axis("Epoch", max(epochs)), y=unit_axis(y) if high <= 1 and "AUC" in y else count_axis(y, high),
    )  # fmt: skip
    return figure(drawn, f"{name}. Dashed line: epoch {best}, whose model was kept.")


def _numbers(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, summary: str = "Numbers"
) -> Html:
    kept, note = list(rows), ""
    if len(rows) > MOST_ROWS:
        step = math.ceil(len(rows) / MOST_ROWS)
        kept = [row for place, row in enumerate(rows) if place % step == 0 or place == len(rows) - 1]
        note = f", {len(kept)} of {len(rows)} points"
    return details(summary, table(columns, kept, caption=caption + note))


def _stacked(scores: Sequence[float]) -> list[tuple[float, int]]:
    """Each score with its place in the heap of those near it, counted from 1."""
    heaps: dict[int, int] = {}
    found = []
    for score in sorted(scores):
        place = round(score * 60)
        heaps[place] = heaps.get(place, 0) + 1
        found.append((score, heaps[place]))
    return found
