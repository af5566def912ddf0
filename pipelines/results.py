"""What an evaluation leaves: one JSON of all metrics, a table of slides, figures, and lines on the screen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.metrics import LESION_METRICS, METRICS
from wsi_vmamba.metrics.base import MetricResult, plain
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.panel import SlidePanel, slide_panel
from wsi_vmamba.pipelines.scoring import FoldScores, ScoredSlides
from wsi_vmamba.provenance import write_run_record

ALL = "all"
SLIDES, LESIONS, METRICS_JSON = "slides.csv", "lesions.csv", "metrics.json"


@dataclass(frozen=True, kw_only=True)
class SlideMetrics:
    """Scored slides with every slide-level metric, and the one among them that was asked for."""

    slides: ScoredSlides
    panel: SlidePanel
    name: str
    headline: MetricResult


def slide_metrics(config: EvaluateConfig, slides: ScoredSlides) -> SlideMetrics | None:
    """Compute every slide-level metric; nothing where FROC alone was asked for."""
    if config.metric in LESION_METRICS:
        return None
    how = {"resamples": config.bootstrap, "seed": config.seed}
    panel = slide_panel(slides.labels, slides.scores, threshold=slides.threshold, groups=slides.groups, **how)
    if config.metric in (ALL, "auc"):
        return SlideMetrics(slides=slides, panel=panel, name="auc", headline=panel.auc)
    headline = METRICS.resolve(config.metric)(slides.labels, slides.scores, **how)
    return SlideMetrics(slides=slides, panel=panel, name=config.metric, headline=headline)


def finish(
    config: EvaluateConfig, slides: SlideMetrics | None, lesions: FrocResult | None, *, out: Path | None
) -> None:
    """Print what was found; write the JSON that was asked for, and everything into ``out`` where there is one."""
    content = content_of(config, slides, lesions)
    if config.json_out:
        write_json(Path(config.json_out), content)
    if out is not None:
        write_json(out / METRICS_JSON, content)
        if slides is not None:
            write_atomic(out / SLIDES, slides_csv(slides.slides))
        if lesions is not None:
            write_atomic(out / LESIONS, lesions_csv(lesions))
        write_figures(out, slides, lesions)
        write_run_record(out, command="evaluate", config=config, facts={"device": "cpu"})
    show(slides, lesions)


def content_of(
    config: EvaluateConfig, slides: SlideMetrics | None, lesions: FrocResult | None
) -> dict[str, Any]:
    """Everything found, with the figures people look for first at the top.

    ``value`` and ``ci95`` are those of the metric that was asked for (of "all", the AUC where there is one);
    ``auc`` and ``froc_score`` are there where they were computed.
    """
    found: dict[str, Any] = {"metric": config.metric}
    first = slides.headline if slides else lesions
    if first is not None:
        found |= {"value": first.value, "ci95": first.ci95}
    if slides is not None:
        area = slides.panel.auc
        found |= {
            "auc": area.value,
            "auc_ci95": area.ci95,
            "auc_ci95_bootstrap": area.bootstrap.ci95,
            "n_slides": len(slides.slides.labels),
            "n_positive": area.n_positive,
            "n_negative": area.n_negative,
            "slide_metrics": {slides.name: slides.headline.to_dict(), **slides.panel.to_dict()},
        }
        if slides.slides.folds is not None:
            found["folds"] = slides.slides.folds.to_dict()
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
    write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_figures(out: Path, slides: SlideMetrics | None, lesions: FrocResult | None) -> None:
    """Draw ROC, precision-recall, reliability and confusion, and FROC, as far as they were computed."""
    from wsi_vmamba.report import plots
    from wsi_vmamba.report.confusion import plot_confusion

    if slides is not None:
        labels, scores, panel = slides.slides.labels, slides.slides.scores, slides.panel
        plots.plot_roc(labels, scores, out)
        plots.plot_precision_recall(labels, scores, out)
        if panel.calibration is not None:
            plots.plot_reliability(labels, scores, out)
        if panel.at_threshold is not None and panel.threshold is not None:
            plot_confusion(panel.at_threshold, out, source=panel.threshold.source)
    if lesions is not None:
        plots.plot_froc(lesions, out)


def slides_csv(slides: ScoredSlides) -> str:
    """One line a slide: label, score, whether it is called, and what else is known of the slide."""
    n = len(slides.labels)
    called = (
        [""] * n if slides.threshold is None else list((slides.scores >= slides.threshold.value).astype(int))
    )
    rows = zip(
        slides.slide_ids,
        slides.patient_ids or slides.slide_ids,
        slides.labels.tolist(),
        map(repr, slides.scores.tolist()),
        called,
        slides.groups or [""] * n,
        slides.patches or [""] * n,
        strict=True,
    )
    return csv_text(("slide_id", "patient_id", "label", "probability", "called", "group", "patches"), rows)


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
    return csv_text(header, rows)


def show(slides: SlideMetrics | None, lesions: FrocResult | None) -> None:
    """Print what was found, the metric that was asked for first."""
    if slides is not None:
        panel, interval = slides.panel, _interval(slides.headline.ci95) or "not defined"
        console.say(f"{slides.name} {slides.headline.value:.4f} (95 % interval {interval})")
        rows = [(what, f"{found.value:.4f}", _interval(found.ci95)) for what, found in panel.rows()]
        rows += [
            (f"recall, {one.group or 'unknown size'} ({one.found} of {one.n})", f"{one.recall:.4f}",
             _interval(one.recall_ci95))
            for one in panel.groups
        ]  # fmt: skip
        title = f"{slides.slides.source}, {panel.auc.n_positive} of them positive"
        console.print_table(title, ("metric", "value", "95 % interval"), rows)
        for note in panel.notes:
            console.say(f"note: {note}")
        if slides.slides.folds is not None:
            show_folds(slides.slides.folds)
    if lesions is not None:
        rows = [
            ("FROC, as the organisers' script scores it", _value(lesions.value), _interval(lesions.ci95)),
            ("FROC without that script's quirks", _value(lesions.value_without_quirks),
             _interval(lesions.ci95_without_quirks)),
        ]  # fmt: skip
        title = f"{lesions.n_lesions} lesions that count on {lesions.n_slides} slides"
        console.print_table(title, ("metric", "value", "95 % interval"), rows)
        if lesions.note:
            console.say(f"note: {lesions.note}")


def show_folds(folds: FoldScores) -> None:
    """Print how the models of a cross-validation did one by one and together."""
    each = ", ".join(f"{auc:.4f}" for auc in folds.aucs)
    console.say(
        f"{len(folds.aucs)} folds on their {folds.split} slides: AUC {folds.mean:.4f} ± {folds.sd:.4f} (mean ± "
        f"standard deviation; {each})"
    )
    console.say(
        f"out-of-fold AUC {folds.out_of_fold_auc:.4f}: {folds.n_out_of_fold} validation slides, each scored by the "
        "model that was not trained on it; each model's epoch was chosen on them, which flatters"
    )


def _value(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.4f}"


def _interval(ci95: tuple[float, float]) -> str:
    return "" if math.isnan(ci95[0]) else f"{ci95[0]:.4f}-{ci95[1]:.4f}"
