"""The tables of an evaluation: rows for CSV files and for other programs, and what a person is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_vmamba.evaluation.calls import CallMetrics
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.evaluation.sites import shift
from wsi_vmamba.evaluation.slides import SlideMetrics
from wsi_vmamba.metrics.base import Interval, MetricResult
from wsi_vmamba.metrics.panel import SlidePanel

if TYPE_CHECKING:
    from wsi_vmamba.evaluation.lesions import LesionMetrics

SLIDE_COLUMNS = ("slide_id", "patient_id", "label", "probability", "called", "group", "patches")
STAGE_COLUMNS = ("patient", "slides", "stage", "called")
LESION_COLUMNS = ("slide_id", "tumor", "lesions", "counted", "hit", "false_positives", "detections")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A table as a person reads it; ``what`` it is of, in a word, and its whole title."""

    what: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def slide_columns(slides: ScoredSlides) -> tuple[str, ...]:
    """Columns of `slide_rows`; those of more than two classes end with the probability of each."""
    if slides.shares is None:
        return SLIDE_COLUMNS
    return (*SLIDE_COLUMNS, *(f"probability_{name}" for name in slides.classes or ()))


def patient_columns(patients: ScoredSlides) -> tuple[str, ...]:
    """Columns of `patient_rows`."""
    shares = slide_columns(patients)[len(SLIDE_COLUMNS) :]
    return ("patient_id", "slides", "label", "probability", "called", *shares)


def patient_rows(patients: ScoredSlides) -> list[tuple[object, ...]]:
    """One row a patient: its slides, label, score and whether it is called."""
    return [(row[0], row[6], *row[2:5], *row[len(SLIDE_COLUMNS) :]) for row in slide_rows(patients)]


def slide_rows(slides: ScoredSlides) -> list[tuple[object, ...]]:
    """One row a slide: label, score, what it is called, and what else is known of the slide."""
    n = len(slides.labels)
    called = slides.called
    rows = zip(
        slides.slide_ids,
        slides.patient_ids or slides.slide_ids,
        slides.named(slides.labels),
        slides.scores.tolist(),
        [""] * n if called is None else slides.named(called),
        slides.groups or [""] * n,
        slides.patches or [""] * n,
        strict=True,
    )
    shares = [()] * n if slides.shares is None else slides.shares.tolist()
    return [(*row, *more) for row, more in zip(rows, shares, strict=True)]


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


def calls_in_words(calls: CallMetrics) -> str:
    """Kappa of calls, in a line."""
    between = shown_interval(calls.kappa.ci95) or "not defined"
    return f"quadratic weighted kappa {calls.kappa.value:.4f} (95 % interval {between}), {calls.source}"


def screens(slides: SlideMetrics | None, lesions: LesionMetrics | None) -> list[Screen]:
    """The tables that a person is shown."""
    found = []
    columns = ("metric", "value", "95 % interval")
    if slides is not None:
        title = f"{slides.slides.source}, {_how_many(slides)}"
        found.append(
            Screen(what="Slides", title=title, columns=columns, rows=_as_text(_slide_results(slides)))
        )
        found += _patient_screens(slides)
        if slides.sites:
            found.append(_site_screen(slides))
    if lesions is not None:
        counted = sum(match.n_counted for match in lesions.slides)
        title = f"{counted} lesions that count on {len(lesions.slides)} slides"
        found.append(
            Screen(what="Lesions", title=title, columns=columns, rows=_as_text(_lesion_results(lesions)))
        )
    return found


def _how_many(slides: SlideMetrics) -> str:
    """How many slides of each class there are."""
    if isinstance(slides.panel, SlidePanel):
        positive = "positive" if slides.slides.classes is None else slides.slides.classes[1]
        return f"{slides.panel.auc.n_positive} of them {positive}"
    counts = slides.panel.called.counts.sum(axis=1).tolist()
    return ", ".join(f"{count} {name}" for count, name in zip(counts, slides.panel.classes, strict=True))


def _patient_screens(slides: SlideMetrics) -> list[Screen]:
    columns, found = ("metric", "value", "95 % interval"), []
    if slides.patients is not None:
        rows = _as_text(_of(what, result) for what, result in slides.patients.panel.rows())
        title = f"{len(slides.patients.patients.labels)} patients; score: {slides.patients.rule}"
        found.append(Screen(what="Patients", title=title, columns=columns, rows=rows))
    if slides.stages is not None:
        rows = _as_text([_of("quadratic weighted kappa of pN stages", slides.stages.kappa)])
        title = f"{len(slides.stages.true)} patients, staged"
        found.append(Screen(what="Stages of patients", title=title, columns=columns, rows=rows))
    return found


def _site_screen(slides: SlideMetrics) -> Screen:
    """AUC by centre."""
    names = slides.slides.classes or ("negative", "positive")
    rows = tuple(
        (
            one.site, *map(str, one.n_labels), "not defined" if one.value is None else f"{one.value:.4f}",
            shown_interval(one.ci95),
        )
        for one in slides.sites
    )  # fmt: skip
    found = shift(slides.sites)
    title = "By centre" if found is None else f"By centre; best minus worst {found:.4f}"
    return Screen(what=title, title=title, columns=("centre", *names, "AUC", "95 % interval"), rows=rows)


def notes_of(slides: SlideMetrics | None, lesions: LesionMetrics | None) -> list[str]:
    """What the metrics themselves have to say: what was left out and why, and how the folds did."""
    notes = [f"note: {note}" for note in slides.panel.notes] if slides else []
    if slides and slides.stages:
        notes += [f"note: {note}" for note in slides.stages.notes]
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
    if isinstance(slides.panel, SlidePanel):
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
