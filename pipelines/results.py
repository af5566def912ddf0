"""What an evaluation leaves: one JSON of all metrics, a table of slides, figures, and lines on the screen."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.pipelines.scoring import Scored, ScoredSlides

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.metrics.base import MetricResult, plain
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.panel import SlidePanel
from wsi_vmamba.provenance import write_text_atomic

SLIDES, LESIONS, METRICS_JSON = "slides.csv", "lesions.csv", "metrics.json"


def content_of(
    config: EvaluateConfig,
    *,
    slides: ScoredSlides | None,
    panel: SlidePanel | None,
    headline: MetricResult | None,
    lesions: FrocResult | None,
) -> dict[str, Any]:
    """Everything found, with the figures people look for first at the top.

    ``value`` and ``ci95`` are those of the metric that was asked for (of "all", the AUC); ``auc`` and
    ``froc_score`` are there where they were computed.
    """
    found: dict[str, Any] = {"metric": config.metric}
    first = headline or lesions
    if first is not None:
        found |= {"value": first.value, "ci95": first.ci95}
    if panel is not None and slides is not None:
        found |= {
            "auc": panel.auc.value,
            "auc_ci95": panel.auc.ci95,
            "auc_ci95_bootstrap": panel.auc.bootstrap.ci95,
            "n_slides": len(slides.labels),
            "n_positive": panel.auc.n_positive,
            "n_negative": panel.auc.n_negative,
            "slide_metrics": panel.to_dict(),
        }
        if headline is not None:
            found["slide_metrics"].setdefault(config.metric, headline.to_dict())
    if lesions is not None:
        detail = lesions.to_dict()
        found |= {
            "froc_score": detail["froc_score"],
            "froc_score_without_quirks": detail["froc_score_without_quirks"],
            "froc_ci95": detail["ci95"],
            "about": detail["about"],
            "lesion_metrics": {"froc": detail},
        }
    plain_content: dict[str, Any] = plain(found)
    return plain_content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the metrics, numbers in full, what is not a number as null."""
    write_text_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_figures(
    out: Path, slides: ScoredSlides | None, panel: SlidePanel | None, lesions: FrocResult | None
) -> None:
    """Draw ROC, precision-recall, reliability and confusion, and FROC, as far as they were computed."""
    from wsi_vmamba.report import plots
    from wsi_vmamba.report.confusion import plot_confusion

    if slides is not None and panel is not None:
        plots.plot_roc(slides.labels, slides.scores, out)
        plots.plot_precision_recall(slides.labels, slides.scores, out)
        if panel.calibration is not None:
            plots.plot_reliability(slides.labels, slides.scores, out)
        if panel.at_threshold is not None and panel.threshold is not None:
            plot_confusion(panel.at_threshold, out, source=panel.threshold.source)
    if lesions is not None:
        plots.plot_froc(lesions, out)


def slides_csv(slides: ScoredSlides, scored: Sequence[Scored] = ()) -> str:
    """One line a slide: label, score, whether it is called, and of a run what else is known of the slide."""
    known = {item.record.slide_id: item for item in scored}
    rows = []
    for place, slide_id in enumerate(slides.slide_ids):
        score = float(slides.scores[place])
        called = "" if slides.threshold is None else int(score >= slides.threshold.value)
        item = known.get(slide_id)
        rows.append(
            (
                slide_id,
                item.record.patient_id if item else slide_id,
                int(slides.labels[place]),
                repr(score),
                called,
                slides.groups[place] if slides.groups else "",
                item.cells if item else "",
            )
        )
    return _csv(("slide_id", "patient_id", "label", "probability", "called", "group", "cells"), rows)


def lesions_csv(result: FrocResult) -> str:
    """One line a slide: its lesions, how many count, how many were hit, and its false positives."""
    rows = [
        (
            match.name,
            int(match.is_tumor),
            len(match.is_itc),
            match.n_counted,
            sum(hit is not None for hit in match.hits),
            len(match.false_positives),
            len(match.detections),
        )
        for match in result.slides
    ]
    header = ("slide_id", "tumor", "lesions", "counted", "hit", "false_positives", "detections")
    return _csv(header, rows)


def show(slides: ScoredSlides | None, panel: SlidePanel | None, lesions: FrocResult | None) -> None:
    """Print what was found."""
    if slides is not None and panel is not None:
        rows = [(what, f"{found.value:.4f}", _interval(found.ci95)) for what, found in panel.rows()]
        rows += [
            (f"recall, {one.group or 'unknown size'} ({one.found} of {one.n})", f"{one.recall:.4f}",
             _interval(one.recall_ci95))
            for one in panel.groups
        ]  # fmt: skip
        title = f"{slides.source}, {panel.auc.n_positive} of them positive"
        console.print_table(title, ("metric", "value", "95 % interval"), rows)
        for note in panel.notes:
            console.say(f"note: {note}")
    if lesions is not None:
        rows = [
            ("FROC, as the organisers' script scores it", _value(lesions.value), _interval(lesions.ci95)),
            ("FROC without that script's quirks", _value(lesions.value_without_quirks),
             _interval(lesions.ci95_without_quirks)),
        ]  # fmt: skip
        title = f"{lesions.n_lesions} lesions that count on {lesions.n_slides} slides"
        console.print_table(title, ("metric", "value", "95 % interval"), rows)


def _value(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.4f}"


def _interval(ci95: tuple[float, float]) -> str:
    return "" if math.isnan(ci95[0]) else f"{ci95[0]:.4f}-{ci95[1]:.4f}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
