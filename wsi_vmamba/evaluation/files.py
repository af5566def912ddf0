"""What an evaluation leaves on disk: one JSON of all metrics, tables of slides and lesions, figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.cost import COST, Stopwatch
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.json_file import write_json
from wsi_vmamba.evaluation.results import Evaluation
from wsi_vmamba.evaluation.slides import SlideMetrics
from wsi_vmamba.evaluation.tables import (
    LESION_COLUMNS,
    STAGE_COLUMNS,
    lesion_rows,
    patient_columns,
    patient_rows,
    slide_columns,
    slide_rows,
)
from wsi_vmamba.metrics.classes import ClassPanel
from wsi_vmamba.provenance import write_run_record

if TYPE_CHECKING:
    from wsi_vmamba.evaluation.lesions import LesionMetrics

SLIDES, LESIONS, METRICS_JSON = "slides.csv", "lesions.csv", "metrics.json"
PATIENTS, STAGES = "patients.csv", "stages.csv"
HEATMAPS = "heatmaps"


def save(found: Evaluation, out: Path) -> None:
    """Write the metrics, the tables and the figures, as far as they were computed."""
    write_json(out / METRICS_JSON, found.to_dict())
    if found.slides is not None:
        slides = found.slides
        write_atomic(out / SLIDES, csv_text(slide_columns(slides.slides), slide_rows(slides.slides)))
        if slides.patients is not None:
            of = slides.patients.patients
            write_atomic(out / PATIENTS, csv_text(patient_columns(of), patient_rows(of)))
        if slides.stages is not None:
            write_atomic(out / STAGES, csv_text(STAGE_COLUMNS, slides.stages.rows()))
        _draw_slides(found.slides, out)
    if found.lesions is not None:
        write_atomic(out / LESIONS, csv_text(LESION_COLUMNS, lesion_rows(found.lesions)))
        _draw_lesions(found.lesions, out)


def write(found: Evaluation, config: EvaluateConfig, out: Path | None, *, watch: Stopwatch) -> None:
    """Write what was asked for: the JSON of ``json_out``, and into ``out`` all files and the record of the run.

    Args:
        found: the metrics.
        config: how they were asked for.
        out: folder; None writes nothing there.
        watch: started before the evaluation.
    """
    if config.json_out:
        write_json(Path(config.json_out), found.to_dict())
    if out is not None:
        save(found, out)
        facts = {"device": "cpu", COST: watch.cost(device="cpu")}
        write_run_record(out, command="evaluate", config=config, facts=facts)


def draw_heatmaps(found: Evaluation, out: Path, *, count: int) -> None:
    """Draw what the model says of patches over the ``count`` slides with the highest scores, into ``out``/heatmaps.

    Raises:
        UsageError: the model tells patches apart in no way, or its bags are patients.
        MissingDataError: a slide's file is not there.
    """
    if found.scored is None or not count:
        return
    from wsi_vmamba.bags import load_bag
    from wsi_vmamba.report import heatmap

    run = found.scored
    if run.train_config.bag == "patient":
        raise UsageError(
            "heatmaps are of slides, and this run scores patients; predict draws those of single slides"
        )
    ranked = sorted(run.scored, key=lambda item: -item.prediction.probability)
    for item in ranked[:count]:
        bag = load_bag(item.record, run.features)
        heatmap.draw_prediction(item.record, bag, item.prediction, out / HEATMAPS)


def _draw_slides(slides: SlideMetrics, out: Path) -> None:
    """ROC, precision-recall, reliability and confusion, as far as they were computed."""
    from wsi_vmamba.report import plots
    from wsi_vmamba.report.confusion import plot_class_confusion, plot_confusion

    labels, scores, panel = slides.slides.labels, slides.slides.scores, slides.panel
    if isinstance(panel, ClassPanel):
        if slides.slides.shares is not None:
            plots.plot_roc_by_class(labels, slides.slides.shares, out, classes=panel.classes)
        plot_class_confusion(panel.called, out, classes=panel.classes)
        return
    plots.plot_roc(labels, scores, out)
    plots.plot_precision_recall(labels, scores, out)
    if panel.calibration is not None:
        plots.plot_reliability(labels, scores, out)
    if panel.at_threshold is not None and panel.threshold is not None:
        plot_confusion(panel.at_threshold, out, source=panel.threshold.source)


def _draw_lesions(lesions: LesionMetrics, out: Path) -> None:
    from wsi_vmamba.report import plots

    if lesions.froc is not None:
        plots.plot_froc(lesions.froc, out)
