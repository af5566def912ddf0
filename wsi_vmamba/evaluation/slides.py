"""Slide-level metrics of scored slides: the panel of all there are, and the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.patients import PatientMetrics, patient_metrics
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.evaluation.sites import SiteAuc, auc_by_site
from wsi_vmamba.evaluation.stages import PatientStages, patient_stages
from wsi_vmamba.metrics import CLASS_METRICS, LESION_METRICS, METRICS
from wsi_vmamba.metrics.base import MetricResult, Scores, require_result
from wsi_vmamba.metrics.classes import ClassPanel, class_panel
from wsi_vmamba.metrics.panel import PANEL_METRICS, SlidePanel, slide_panel
from wsi_vmamba.registry import Table

#: The word for every metric that the data at hand allow.
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class SlideMetrics:
    """Scored slides with every slide-level metric.

    Attributes:
        slides: what was scored.
        panel: the metrics that come with the package, of two classes or of more.
        name: of the metric that was asked for; "auc" of "all".
        others: results by name of metrics that are not in the panel in this form: the one asked for, or those that were
            registered.
        patients: the same of patients, where they have several slides.
        stages: of patients, where the classes are those of lymph nodes.
        sites: AUC of each centre, where there are several.
    """

    slides: ScoredSlides
    panel: SlidePanel | ClassPanel
    name: str
    others: Mapping[str, MetricResult]
    patients: PatientMetrics | None = None
    stages: PatientStages | None = None
    sites: tuple[SiteAuc, ...] = ()

    @property
    def headline(self) -> MetricResult:
        """Result of the metric that was asked for."""
        return self.others.get(self.name, self.panel.auc)

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the others that the panel shows in no form."""
        shown = self.panel.results() if isinstance(self.panel, ClassPanel) else PANEL_METRICS
        return tuple(name for name in self.others if name not in shown)

    def to_dict(self) -> dict[str, Any]:
        """All metrics by name, ready for JSON, the one that was asked for first."""
        others = {name: result.to_dict() for name, result in self.others.items()}
        return {self.name: self.headline.to_dict(), **others, **self.panel.to_dict()}


def slide_metrics(config: EvaluateConfig, slides: ScoredSlides) -> SlideMetrics | None:
    """Compute every slide-level metric; nothing where a lesion-level one alone was asked for.

    Raises:
        UsageError: the metric is of another number of classes.
        MetricError: labels or scores are not usable, or a metric returns something else than a result.
    """
    if config.metric in LESION_METRICS:
        return None
    draws = {"resamples": config.bootstrap, "seed": config.seed}
    stages = patient_stages(slides, **draws)
    panel: SlidePanel | ClassPanel
    if slides.shares is None:
        panel, others = _of_two(config, slides)
    else:
        panel, others = _of_several(config, slides, slides.shares, stages)
    return SlideMetrics(
        slides=slides,
        panel=panel,
        name="auc" if config.metric == ALL else config.metric,
        others=others,
        patients=patient_metrics(slides, **draws),
        stages=stages,
        sites=auc_by_site(slides, **draws),
    )


def _of_two(config: EvaluateConfig, slides: ScoredSlides) -> tuple[SlidePanel, dict[str, MetricResult]]:
    """Metrics of two classes."""
    draws = {"resamples": config.bootstrap, "seed": config.seed}
    _require(METRICS, config.metric, f"{slides.source} are of two classes")
    panel = slide_panel(
        slides.labels, slides.scores, threshold=slides.threshold, groups=slides.groups, **draws
    )
    asked = (
        [name for name in METRICS if name not in PANEL_METRICS] if config.metric == ALL else [config.metric]
    )
    others = {
        name: require_result(METRICS.resolve(name)(slides.labels, slides.scores, **draws), name)
        for name in asked
        if name != "auc"
    }
    return panel, others


def _of_several(
    config: EvaluateConfig, slides: ScoredSlides, shares: Scores, stages: PatientStages | None
) -> tuple[ClassPanel, dict[str, MetricResult]]:
    """Metrics of more than two classes; kappa where the classes have an order that somebody gave."""
    draws = {"resamples": config.bootstrap, "seed": config.seed}
    classes = slides.classes or ()
    _require(CLASS_METRICS, config.metric, f"{slides.source} are of {len(classes)} classes")
    panel = class_panel(slides.labels, shares, classes=classes, **draws)
    known: dict[str, MetricResult] = dict(panel.results())
    if stages is not None:
        known["kappa"] = stages.kappa
    if config.metric == "kappa" and stages is None and not slides.ordered:
        raise UsageError(
            f"kappa counts steps on an ordered scale, and nobody said in which order {', '.join(classes)} are; train "
            "with --class, once for each in their order"
        )
    usable = [name for name in CLASS_METRICS if name != "kappa" or slides.ordered or stages is not None]
    asked = (
        [name for name in usable if name not in panel.results()] if config.metric == ALL else [config.metric]
    )
    others = {
        name: known[name]
        if name in known
        else require_result(CLASS_METRICS.resolve(name)(slides.labels, shares, **draws), name)
        for name in asked
        if name != "auc"
    }
    return panel, others


def _require(table: Table, metric: str, what: str) -> None:
    """Refuse a metric that is of two classes only, or of more only."""
    if metric != ALL and metric not in table:
        raise UsageError(f"--metric {metric}: {what}; choose from {', '.join(table)}")
