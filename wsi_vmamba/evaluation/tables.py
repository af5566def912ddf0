"""The tables of an evaluation: rows for CSV files and for other programs, and what a person is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_vmamba.evaluation.lesions import LesionMetrics
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.evaluation.slides import SlideMetrics
from wsi_vmamba.metrics.base import Interval, MetricResult

SLIDE_COLUMNS = ("slide_id", "patient_id", "label", "probability", "called", "group", "patches")
LESION_COLUMNS = ("slide_id", "tumor", "lesions", "counted", "hit", "false_positives", "detections")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A table as a person reads it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def slide_rows(slides: ScoredSlides) -> list[tuple[object, ...]]:
    """One row a slide: label, score, whether it is called, and what else is known of the slide."""
    n = len(slides.labels)
    called = (
        [""] * n
        if slides.threshold is None
        else (slides.scores >= slides.threshold.value).astype(int).tolist()
    )
    return list(
        zip(
            slides.slide_ids,
            slides.patient_ids or slides.slide_ids,
            slides.labels.tolist(),
            slides.scores.tolist(),
            called,
            slides.groups or [""] * n,
            slides.patches or [""] * n,
            strict=True,
        )
    )


def lesion_rows(lesions: LesionMetrics) -> list[tuple[object, ...]]:
    """One row a slide: its lesions, how many count, how many were hit, and its false positives."""
    return [
        (
            match.name,
            int(match.is_tumor),
            len(match.is_itc),
            match.n_counted,
            sum(hit is not None for hit in match.hits),
            len(match.false_positives),
            len(match.detections),
        )
        for match in lesions.slides
    ]


def as_dicts(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> tuple[dict[str, Any], ...]:
    """Rows by the names of their columns."""
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)


def metric_rows(slides: SlideMetrics | None, lesions: LesionMetrics | None) -> tuple[dict[str, Any], ...]:
    """Metric, value and both ends of the 95 % interval, as numbers; NaN where one is not defined."""
    named = [*(_slide_results(slides) if slides else []), *(_lesion_results(lesions) if lesions else [])]
    return tuple(
        {"metric": what, "value": value, "ci95_low": low, "ci95_high": high}
        for what, value, (low, high) in named
    )


def headline(slides: SlideMetrics | None) -> str:
    """The slide-level metric that was asked for, in a line; empty where there is none."""
    if slides is None:
        return ""
    found = slides.headline
    return f"{slides.name} {found.value:.4f} (95 % interval {shown_interval(found.ci95) or 'not defined'})"


def screens(slides: SlideMetrics | None, lesions: LesionMetrics | None) -> list[Screen]:
    """The tables that a person is shown."""
    found = []
    columns = ("metric", "value", "95 % interval")
    if slides is not None:
        title = f"{slides.slides.source}, {slides.panel.auc.n_positive} of them positive"
        found.append(Screen(title=title, columns=columns, rows=_as_text(_slide_results(slides))))
    if lesions is not None:
        counted = sum(match.n_counted for match in lesions.slides)
        title = f"{counted} lesions that count on {len(lesions.slides)} slides"
        found.append(Screen(title=title, columns=columns, rows=_as_text(_lesion_results(lesions))))
    return found


def notes_of(slides: SlideMetrics | None, lesions: LesionMetrics | None) -> list[str]:
    """What the metrics themselves have to say: what was left out and why, and how the folds did."""
    notes = [f"note: {note}" for note in slides.panel.notes] if slides else []
    if slides and slides.slides.folds:
        notes += slides.slides.folds.in_words()
    if lesions and lesions.froc and lesions.froc.note:
        notes.append(f"note: {lesions.froc.note}")
    return notes


def shown_interval(ci95: Interval) -> str:
    """Both ends; empty where there is no interval."""
    return "" if math.isnan(ci95[0]) else f"{ci95[0]:.4f}-{ci95[1]:.4f}"


def _slide_results(slides: SlideMetrics) -> list[tuple[str, float, Interval]]:
    found = [_of(what, result) for what, result in slides.panel.rows()]
    found += [
        (f"recall, {one.group or 'unknown size'} ({one.found} of {one.n})", one.recall, one.recall_ci95)
        for one in slides.panel.groups
    ]
    return found + [_of(name, slides.others[name]) for name in slides.registered]


def _lesion_results(lesions: LesionMetrics) -> list[tuple[str, float, Interval]]:
    found = []
    for name, result in lesions.results.items():
        if result is lesions.froc:
            froc = lesions.froc
            found += [
                ("FROC, as the organisers' script scores it", froc.value, froc.ci95),
                ("FROC without that script's quirks", froc.value_without_quirks, froc.ci95_without_quirks),
            ]
        else:
            found.append(_of(name, result))
    return found


def _of(what: str, result: MetricResult) -> tuple[str, float, Interval]:
    return what, result.value, result.ci95


def _as_text(rows: Iterable[tuple[str, float, Interval]]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (what, "not defined" if math.isnan(value) else f"{value:.4f}", shown_interval(ci95))
        for what, value, ci95 in rows
    )
