"""Slide-level metrics of scored slides: the panel of all there are, and the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.metrics import LESION_METRICS, METRICS
from wsi_vmamba.metrics.base import MetricResult, require_result
from wsi_vmamba.metrics.panel import PANEL_METRICS, SlidePanel, slide_panel

#: The word for every metric that the data at hand allow.
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class SlideMetrics:
    """Scored slides with every slide-level metric.

    Attributes:
        slides: what was scored.
        panel: the metrics that come with the package.
        name: of the metric that was asked for; "auc" of "all".
        others: results by name of metrics that are not in the panel in this form: the one asked for, or those that were
            registered.
    """

    slides: ScoredSlides
    panel: SlidePanel
    name: str
    others: Mapping[str, MetricResult]

    @property
    def headline(self) -> MetricResult:
        """Result of the metric that was asked for."""
        return self.others.get(self.name, self.panel.auc)

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the others that the panel shows in no form."""
        return tuple(name for name in self.others if name not in PANEL_METRICS)

    def to_dict(self) -> dict[str, Any]:
        """All metrics by name, ready for JSON, the one that was asked for first."""
        others = {name: result.to_dict() for name, result in self.others.items()}
        return {self.name: self.headline.to_dict(), **others, **self.panel.to_dict()}


def slide_metrics(config: EvaluateConfig, slides: ScoredSlides) -> SlideMetrics | None:
    """Compute every slide-level metric; nothing where a lesion-level one alone was asked for.

    Raises:
        MetricError: labels or scores are not usable, or a metric returns something else than a result.
    """
    if config.metric in LESION_METRICS:
        return None
    draws = {"resamples": config.bootstrap, "seed": config.seed}
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
    name = "auc" if config.metric == ALL else config.metric
    return SlideMetrics(slides=slides, panel=panel, name=name, others=others)
