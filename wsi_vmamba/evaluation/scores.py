"""Slides with labels and scores, whatever they come from; here from a CSV that any program may have written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics.panel import Threshold
from wsi_vmamba.metrics.scores import read_class_scores, read_scores
from wsi_vmamba.metrics.thresholds import choose_threshold

#: Columns that hold the size of the metastasis; the first that is there is taken.
GROUP_COLUMNS = ("metastasis", "category")
#: Columns that say which centre a slide is from; the first that is there is taken.
SITE_COLUMNS = ("center", "centre", "site")


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """How the models of a cross-validation did one by one, and on the slides that each had not seen.

    Attributes:
        split: what ``aucs`` are of: "validation" (each fold's own slides) or "test" (the same slides for all).
        aucs: ROC AUC of each fold's model, of more than two classes the macro AUC.
        out_of_fold_auc: of all validation slides together, each scored by the model that was not trained on it.
        n_out_of_fold: number of those slides.
    """

    split: str
    aucs: tuple[float, ...]
    out_of_fold_auc: float
    n_out_of_fold: int

    @property
    def mean(self) -> float:
        """Mean of ``aucs``."""
        return mean(self.aucs)

    @property
    def sd(self) -> float:
        """Standard deviation of ``aucs`` from fold to fold, with n - 1."""
        return stdev(self.aucs)

    def in_words(self) -> list[str]:
        """How the models did one by one and together, two lines."""
        each = ", ".join(f"{auc:.4f}" for auc in self.aucs)
        return [
            f"{len(self.aucs)} folds on their {self.split} slides: AUC {self.mean:.4f} ± {self.sd:.4f} (mean ± "
            f"standard deviation; {each})",
            f"out-of-fold AUC {self.out_of_fold_auc:.4f}: {self.n_out_of_fold} validation slides, each scored by the "
            "model that was not trained on it; each model's epoch was chosen on them, which flatters",
        ]

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "split": self.split,
            "auc": list(self.aucs),
            "auc_mean": self.mean,
            "auc_sd": self.sd,
            "out_of_fold_auc": self.out_of_fold_auc,
            "n_out_of_fold": self.n_out_of_fold,
        }


@dataclass(frozen=True, kw_only=True)
class ScoredSlides:
    """What the slide-level metrics are computed from.

    Attributes:
        source: what was scored, for messages.
        slide_ids: names of the N slides.
        labels: zeros and ones, or numbers of classes, (N,).
        scores: (N,), higher meaning more likely positive; of more than two classes, the probability of the one called.
        patient_ids: whose slide each is, where known.
        groups: size of the metastasis of each slide, where known.
        patches: number of patches of each slide, where there are any.
        threshold: from which score on a slide is called positive, where one was chosen.
        folds: of a cross-validation, how each of its models did.
        classes: names of the classes, where labels are names.
        shares: (N, K), probability of each class, of more than two.
        sites: centre of each slide, where known.
        ordered: whether somebody gave the classes an order, as kappa needs it.
    """

    source: str
    slide_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    patient_ids: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    patches: tuple[int, ...] | None = None
    threshold: Threshold | None = None
    folds: FoldScores | None = None
    classes: tuple[str, ...] | None = None
    shares: NDArray[np.float64] | None = None
    sites: tuple[str, ...] | None = None
    ordered: bool = False

    @property
    def called(self) -> NDArray[np.int64] | None:
        """What each slide is called, (N,): the most probable of several classes, or as the threshold says."""
        called: NDArray[np.int64] | None = None
        if self.shares is not None:
            called = self.shares.argmax(axis=1).astype(np.int64)
        elif self.threshold is not None:
            called = (self.scores >= self.threshold.value).astype(np.int64)
        return called

    def named(self, labels: NDArray[np.int64]) -> list[object]:
        """Labels by the names of their classes, where they have any."""
        return [label if self.classes is None else self.classes[label] for label in labels.tolist()]


def read_scored_slides(config: EvaluateConfig, path: Path, columns: Sequence[str]) -> ScoredSlides:
    """Read the scores of a CSV; a column of metastasis sizes is used where there is one.

    Args:
        config: of the evaluation.
        path: of the CSV.
        columns: that of the scores, or one of probabilities for each of several classes.

    Raises:
        UnknownNameError: there is no such column.
        MetricError: labels or scores are not usable.
        UsageError: something was asked for that several classes do not have.
    """
    if len(columns) > 1:
        return _of_several(config, path, columns)
    (column,) = columns
    table = read_scores(
        path, score_column=column, label_column=config.label_column, positive=config.positive,
        group_columns=GROUP_COLUMNS,
    )  # fmt: skip
    return ScoredSlides(
        source=f"{len(table.labels)} slides of {path} ({column})",
        slide_ids=table.slide_ids,
        labels=table.labels,
        scores=table.scores,
        groups=table.groups,
        threshold=given_threshold(config),
    )


def _of_several(config: EvaluateConfig, path: Path, columns: Sequence[str]) -> ScoredSlides:
    if config.positive is not None:
        raise UsageError("of several classes none is the positive one; leave out --positive")
    table = read_class_scores(path, score_columns=columns, label_column=config.label_column)
    return ScoredSlides(
        source=f"{len(table.labels)} slides of {path} ({', '.join(columns)})",
        slide_ids=table.slide_ids,
        labels=table.labels,
        scores=table.shares.max(axis=1),
        groups=None,
        threshold=given_threshold(config, n_classes=len(columns)),
        classes=table.classes,
        shares=table.shares,
        ordered=True,
    )


def given_threshold(config: EvaluateConfig, *, n_classes: int = 2) -> Threshold | None:
    """The threshold that the user gave.

    Raises:
        UsageError: there are more than two classes, of which the most probable is called.
    """
    if config.threshold is not None and n_classes > 2 and not config.compare:
        raise UsageError(
            f"of {n_classes} classes the most probable is called, whatever its probability; leave out --threshold"
        )
    return None if config.threshold is None else Threshold(value=config.threshold, source="given by the user")


def chosen_threshold(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Threshold:
    """The threshold that VALIDATION slides suggest."""
    return Threshold(
        value=choose_threshold(labels, scores),
        source=f"highest balanced accuracy on {len(labels)} validation slides",
    )
