"""The report of a trained run: what its held-out slides say of it. Judged as `evaluate` judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba.config import EvaluateConfig, ReportConfig, resolve_config
from wsi_vmamba.cost import COST
from wsi_vmamba.evaluation import tables
from wsi_vmamba.evaluation.compare import compare
from wsi_vmamba.evaluation.judge import judge_run
from wsi_vmamba.evaluation.results import Evaluation
from wsi_vmamba.evaluation.run_scores import ScoredRun
from wsi_vmamba.evaluation.slides import ALL, SlideMetrics
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.extraction.summary import waiting_shares
from wsi_vmamba.html_report import curves
from wsi_vmamba.html_report.comparison import comparison_section
from wsi_vmamba.html_report.extraction_table import read_outcomes
from wsi_vmamba.html_report.markup import (
    Html,
    cards,
    element,
    facts,
    join,
    listed,
    paragraph,
    section,
    shown_number,
    table,
    without_folders,
)
from wsi_vmamba.html_report.of_classes import class_calls, class_cards, class_figures
from wsi_vmamba.html_report.page import HtmlReport, page
from wsi_vmamba.html_report.pictures import SlidePlaces
from wsi_vmamba.html_report.provenance import provenance, record_of
from wsi_vmamba.html_report.run_cohort import cohort_table
from wsi_vmamba.html_report.run_slides import slides_section, slides_table
from wsi_vmamba.html_report.training_curve import training_section
from wsi_vmamba.metrics.classes import ClassPanel
from wsi_vmamba.metrics.panel import SlidePanel
from wsi_vmamba.metrics.thresholds import ThresholdResult

#: Where `evaluate` writes what it found of a run, and how it was asked.
_EVALUATION = Path("evaluation") / "evaluate.yaml"


def report_run(folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
    """Judge a run and write down everything there is to know of it.

    Raises:
        TrainingError: the folder holds no run, or one that is not finished.
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
        MetricError: the runs to compare have other slides or labels.
    """
    asked = _judged_as(folder, config)
    found = judge_run(asked, folder, out=None, progress=progress)
    slides, run = found.slides, found.scored
    if slides is None or run is None:  # of a run and all metrics there are both
        raise AssertionError("a run was judged without its slides")
    others = [
        compare(asked.model_copy(update={"compare": [str(folder), other]}), progress=progress)
        for other in config.compare
    ]
    places = SlidePlaces(Path(config.slides) if config.slides else None)
    title = folder.resolve().name
    return page(
        kind="run", title=title, lead=_lead(found, slides, run),
        sections=[
            comparison_section(others, names=[title, *(_name(other) for other in config.compare)]),
            section("What the slides say", _figures(found, slides), _metrics(found)),
            section("Calls" if isinstance(slides.panel, ClassPanel) else "Threshold", _threshold(slides)),
            slides_section(run, examples=config.examples, places=places, progress=progress),
            section("All slides that were judged", slides_table(run)),
            section("Slides of the data set", cohort_table(run)),
            section("Failures and what to do", _failures(run)),
            section("Training", training_section(folder)),
            section("Time and cost", _cost(folder, run)),
            section("What made it", _provenance(folder, run, asked)),
        ],
    )  # fmt: skip


def _judged_as(folder: Path, config: ReportConfig) -> EvaluateConfig:
    """As the run was evaluated, where it was, so that the report has the same numbers; with every metric."""
    file = folder / _EVALUATION
    known = resolve_config(EvaluateConfig, file=file) if file.is_file() else EvaluateConfig()
    changes: dict[str, object] = {
        "metric": ALL,
        "run": str(folder),
        "compare": None,
        "out": None,
        "json_out": None,
    }
    if config.split is not None:
        changes["split"] = config.split
    return known.model_copy(update=changes)


def _name(run: str) -> str:
    return Path(run).resolve().name


def _lead(found: Evaluation, slides: SlideMetrics, run: ScoredRun) -> list[Html]:
    panel = slides.panel
    between = tables.shown_interval(panel.auc.ci95) or "not defined"
    shown = (
        class_cards(panel, between=between) if isinstance(panel, ClassPanel) else _cards(panel, run, between)
    )
    if slides.stages is not None:
        kappa = slides.stages.kappa
        shown.append(("Kappa of pN stages", shown_number(kappa.value), f"{len(slides.stages.true)} patients"))
    if found.lesions is not None and found.lesions.froc is not None:
        froc = found.lesions.froc
        shown.append(("FROC", shown_number(froc.value, 3), f"{froc.n_lesions} lesions"))
    trained = run.train_config
    what = (
        f"The {run.split} slides of the data set {trained.dataset}, judged by a model of slides "
        f"({trained.aggregator or 'the default aggregator'})."
        if not trained.dataset.endswith("features")
        else f"The {run.split} slides of a table of numbers, judged by the classifier {trained.classifier}."
    )
    return [
        paragraph(what, mark="lead"),
        cards(shown),
        *(paragraph(one, mark="odd") for one in _warnings(found)),
    ]


def _cards(panel: SlidePanel, run: ScoredRun, between: str) -> list[tuple[str, str, str]]:
    """What matters most of two classes."""
    called, (negative, positive) = panel.at_threshold, run.classes or ("negative", "positive")
    shown = [
        ("ROC AUC", f"{panel.auc.value:.4f}", f"95 % interval {between}"),
        ("Slides judged", str(len(run.scored)),
         f"{panel.auc.n_positive} {positive}, {panel.auc.n_negative} {negative}"),
    ]  # fmt: skip
    if called is not None:
        wrong = called.false_positive + called.false_negative
        shown.append(("Called wrong", str(wrong), f"of {len(run.scored)} at {called.threshold:.4g}"))
    if panel.calibration is not None:
        shown.append(("Calibration error", f"{panel.calibration.ece.value:.3f}", "ECE; 0 is perfect"))
    return shown


def _warnings(found: Evaluation) -> list[str]:
    return [without_folders(one) for one in found.warnings]


def _figures(found: Evaluation, slides: SlideMetrics) -> Html:
    panel = slides.panel
    if isinstance(panel, ClassPanel):
        return class_figures(slides.slides, panel)
    said = f"AUC {curves.with_interval(panel.auc.value, panel.auc.ci95, 3)}"
    drawn = [
        curves.roc_figure([("", slides.slides)], [said]),
        curves.precision_recall_figure(slides.slides, panel),
        curves.scores_figure(slides.slides, panel.threshold.value if panel.threshold else None),
    ]
    if panel.calibration is not None:
        drawn.append(curves.calibration_figure(panel.calibration))
    if panel.at_threshold is not None:
        drawn.append(curves.confusion_figure(panel.at_threshold))
    if found.lesions is not None and found.lesions.froc is not None:
        drawn.append(curves.froc_figure(found.lesions.froc))
    return element("div", *drawn, class_="charts")


def _metrics(found: Evaluation) -> Html:
    """The tables that `evaluate` shows, and its notes."""
    shown = [
        table(one.columns, one.rows, caption=one.what) for one in tables.screens(found.slides, found.lesions)
    ]
    notes = [*found.notes, *tables.notes_of(found.slides, found.lesions)]
    return join([*shown, listed(without_folders(note) for note in notes)])


def _threshold(slides: SlideMetrics) -> Html:
    if isinstance(slides.panel, ClassPanel):
        return class_calls(slides.panel)
    chosen, called = slides.panel.threshold, slides.panel.at_threshold
    if chosen is None or called is None:
        return paragraph(
            "There is no threshold: one is chosen on validation slides, and these are the slides that are judged. "
            "The curves hold for every threshold; calls and confusion do not exist without one."
        )
    words = paragraph(
        f"A slide is called positive from a score of {chosen.value:.4g} on. The threshold is: {chosen.source}; the "
        "slides that are judged here had no part in it. It is as good as those slides are many. A lower one finds more "
        "positive slides and calls more negative ones."
    )
    return join([words, _shares(called)])


def _shares(called: ThresholdResult) -> Html:
    found = called.to_dict()
    rows = []
    for name, key in (
        ("sensitivity", "sensitivity"), ("specificity", "specificity"), ("balanced accuracy", "value"),
        ("accuracy", "accuracy"), ("positive predictive value", "positive_predictive_value"),
        ("negative predictive value", "negative_predictive_value"), ("F1", "f1"),
    ):  # fmt: skip
        ends = found.get("ci95" if key == "value" else f"{key}_ci95")
        between = "" if not ends or None in ends else f"{ends[0]:.4f}-{ends[1]:.4f}"
        rows.append((name, shown_number(found[key]), between))
    return table(
        ("at the threshold", "value", "95 % interval"), rows, caption="What the threshold gets right"
    )


def _failures(run: ScoredRun) -> Html:
    """Slides that never got as far as the model."""
    outcomes = read_outcomes(run.features)
    failed = [one for one in outcomes if one.failed]
    gaps = [one for one in outcomes if one.left_out and not one.failed]
    if not outcomes:
        return paragraph(
            "The folder of the features has no table of outcomes (extract.csv), so none are known."
        )
    parts = []
    if failed:
        rows = [(one.slide_id, one.outcome, without_folders(one.detail), one.remedy) for one in failed]
        parts.append(
            table(("slide", "outcome", "cause", "what to do"), rows, caption="Slides without features")
        )
    if gaps:
        found = [(one.slide_id, one.left_out, without_folders(one.detail)) for one in gaps]
        parts.append(table(("slide", "patches", "cause"), found, caption="Slides with patches left out"))
    return join(parts) or paragraph(
        f"None: all {len(outcomes)} slides that were extracted have features.", mark="good"
    )


def _cost(folder: Path, run: ScoredRun) -> Html:
    outcomes = read_outcomes(run.features)
    seconds = sorted(one.seconds for one in outcomes if not one.failed and one.seconds > 0)
    model = sum(file.stat().st_size for file in folder.rglob("best.safetensors"))
    pairs: dict[str, object] = {
        "Extraction, all slides": f"{sum(seconds):,.0f} s" if seconds else "",
        "Extraction, median slide": f"{seconds[len(seconds) // 2]:.1f} s" if seconds else "",
        "Patches": f"{sum(one.patches for one in outcomes):,}" if seconds else "",
        "Waiting": waiting_shares(outcomes),
        "Size of the model": f"{model / 1e6:.2f} MB" if model else "",
        "Extraction, last run": _spent(record_of(run.features, "extract")),
        "Training": _spent(record_of(folder, "train")),
        "Evaluation": _spent(record_of(folder / _EVALUATION.parent, "evaluate")),
    }
    return facts(pairs, caption="As recorded by extract, train and evaluate")


def _spent(record: Mapping[str, Any] | None) -> str:
    """What a command took, as its record says it."""
    if record is None:
        return "no record of it"
    found = record.get(COST)
    if found is None:
        return "how long it took is not recorded"
    cpu = "" if found["cpu_s"] is None else f", {found['cpu_s']:,.1f} s of CPU"
    words = f"{found['wall_s']:,.1f} s{cpu}, on {found['device']} ({found['processor']})"
    return f"{words}, from where an interrupted one stopped" if record.get("resumed") else words


def _provenance(folder: Path, run: ScoredRun, asked: EvaluateConfig) -> Html:
    judged = {
        "split": asked.split, "bootstrap": asked.bootstrap, "seed": asked.seed,
        "threshold": "chosen on validation slides" if asked.threshold is None else asked.threshold,
    }  # fmt: skip
    return join(
        [
            provenance("train", record_of(folder, "train")),
            provenance("extract", record_of(run.features, "extract")),
            facts(judged, caption="How it was judged"),
        ]
    )
