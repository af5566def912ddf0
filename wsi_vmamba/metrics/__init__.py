"""Figures of merit: slide-level metrics on (labels, scores), and the lesion-level FROC.

Importing this room is cheap; NumPy loads when a metric is resolved or a function is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_vmamba.registry import Table, load_attribute

if TYPE_CHECKING:
    from wsi_vmamba.metrics.auc import roc_auc
    from wsi_vmamba.metrics.delong import delong_interval, delong_paired

#: Slide-level metrics. Each resolves to ``f(labels, scores, *, resamples=..., seed=...) -> MetricResult``.
METRICS = Table(
    "metric",
    {
        "auc": "wsi_vmamba.metrics.auc:auc",
        "average_precision": "wsi_vmamba.metrics.auc:average_precision",
        "sensitivity_at_specificity": "wsi_vmamba.metrics.thresholds:sensitivity_at_specificity",
        "brier": "wsi_vmamba.metrics.calibration:brier",
        "ece": "wsi_vmamba.metrics.calibration:ece",
    },
)

#: Metrics of more than two classes. Each resolves to ``f(labels (N,), shares (N, K), *, resamples=..., seed=...)``.
CLASS_METRICS = Table(
    "class metric",
    {
        "auc": "wsi_vmamba.metrics.classes:macro_auc",
        "average_precision": "wsi_vmamba.metrics.classes:macro_average_precision",
        "balanced_accuracy": "wsi_vmamba.metrics.classes:balanced_accuracy",
        "brier": "wsi_vmamba.metrics.classes:brier",
        "ece": "wsi_vmamba.metrics.classes:ece",
        "kappa": "wsi_vmamba.metrics.kappa:kappa",
    },
)

#: Lesion-level metrics. Each resolves to ``f(slides: Sequence[FrocSlide], *, resamples=..., seed=...)``.
LESION_METRICS = Table("lesion metric", {"froc": "wsi_vmamba.metrics.froc:froc"})

_LAZY = {
    "delong_interval": "wsi_vmamba.metrics.delong:delong_interval",
    "delong_paired": "wsi_vmamba.metrics.delong:delong_paired",
    "roc_auc": "wsi_vmamba.metrics.auc:roc_auc",
}

__all__ = ["CLASS_METRICS", "LESION_METRICS", "METRICS", "delong_interval", "delong_paired", "roc_auc"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return load_attribute(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
