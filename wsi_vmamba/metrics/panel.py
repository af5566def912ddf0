"""Everything worth knowing about the scores of a set of slides, in one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from wsi_vmamba.metrics.auc import AucResult, auc, average_precision
from wsi_vmamba.metrics.base import MetricResult, are_probabilities, check_binary
from wsi_vmamba.metrics.bootstrap import BootstrappedResult
from wsi_vmamba.metrics.calibration import ReliabilityBin, brier, ece, reliability_bins
from wsi_vmamba.metrics.thresholds import (
    GroupRecall,
    ThresholdResult,
    at_threshold,
    recall_by_group,
    sensitivity_at_specificity,
)

#: Specificities at which the sensitivity is reported.
SPECIFICITIES = (0.8, 0.9, 0.95)
#: Entries of METRICS that the panel holds.
PANEL_METRICS = frozenset({"auc", "average_precision", "sensitivity_at_specificity", "brier", "ece"})


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score from which a slide is called positive, and where it comes from: never from the slides judged."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far scores can be read as probabilities."""

    ece: BootstrappedResult
    brier: BootstrappedResult
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            "ece": self.ece.to_dict(),
            "brier": self.brier.to_dict(),
            "bins": [one.to_dict() for one in self.bins],
        }


@dataclass(frozen=True, kw_only=True)
class SlidePanel:
    """Slide-level metrics of one set of scores; what could not be computed is None, with the reason in ``notes``."""

    auc: AucResult
    average_precision: BootstrappedResult
    sensitivity_at_specificity: tuple[BootstrappedResult, ...]
    calibration: Calibration | None
    threshold: Threshold | None
    at_threshold: ThresholdResult | None
    groups: tuple[GroupRecall, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All metrics by name, ready for JSON."""
        called = self.at_threshold
        return {
            "auc": self.auc.to_dict(),
            "average_precision": self.average_precision.to_dict(),
            "sensitivity_at_specificity": [one.to_dict() for one in self.sensitivity_at_specificity],
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "balanced_accuracy": called.to_dict() if called else None,
            "threshold_source": self.threshold.source if self.threshold else None,
            "recall_by_group": [one.to_dict() for one in self.groups],
            "notes": list(self.notes),
        }

    def rows(self) -> list[tuple[str, MetricResult]]:
        """(what, result) of every metric with an interval, for a table on the screen."""
        found: list[tuple[str, MetricResult]] = [
            ("ROC AUC (DeLong)", self.auc),
            ("average precision", self.average_precision),
        ]
        found += [
            (f"sensitivity at specificity {one.settings['specificity']:g}", one)
            for one in self.sensitivity_at_specificity
        ]
        if self.at_threshold is not None:
            found.append((f"balanced accuracy at {self.at_threshold.threshold:.4g}", self.at_threshold))
        if self.calibration is not None:
            found += [("calibration error (ECE)", self.calibration.ece), ("Brier", self.calibration.brier)]
        return found


def slide_panel(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    threshold: Threshold | None,
    groups: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> SlidePanel:
    """Compute every slide-level metric.

    Args:
        labels: zeros and ones, shape (N,).
        scores: shape (N,), higher meaning more likely positive.
        threshold: chosen on other slides, see `choose_threshold`; None leaves out what needs one.
        groups: N names, that of each positive slide saying which group it belongs to; None for no groups.
        resamples: of each stratified bootstrap.
        seed: of each stratified bootstrap.

    Raises:
        MetricError: labels or scores are not usable, or a class has fewer than two slides.
    """
    label, score = check_binary(labels, scores)
    how = {"resamples": resamples, "seed": seed}
    area = auc(label, score, **how)
    notes = [area.note] if area.note else []
    calibration = None
    if are_probabilities(score):
        bins = tuple(reliability_bins(label, score))
        calibration = Calibration(ece=ece(label, score, **how), brier=brier(label, score, **how), bins=bins)
    else:
        notes.append("the scores are no probabilities (outside 0–1), so calibration is left out")
    if threshold is None:
        notes.append(
            "no threshold from validation slides was given, so confusion matrix, balanced accuracy and recall by "
            "group are left out"
        )
    called = None if threshold is None else at_threshold(label, score, threshold=threshold.value, **how)
    recalls: list[GroupRecall] = []
    if threshold is not None and groups is not None:
        recalls = recall_by_group(label, score, groups, threshold=threshold.value)
    return SlidePanel(
        auc=area,
        average_precision=average_precision(label, score, **how),
        sensitivity_at_specificity=tuple(
            sensitivity_at_specificity(label, score, specificity=share, **how) for share in SPECIFICITIES
        ),
        calibration=calibration,
        threshold=threshold,
        at_threshold=called,
        groups=tuple(recalls),
        notes=tuple(notes),
    )
