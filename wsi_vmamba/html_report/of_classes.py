"""The parts of a run's report that are other where there are more than two classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.html_report import curves
from wsi_vmamba.html_report.markup import Html, element, join, paragraph, shown_number, table
from wsi_vmamba.metrics.classes import ClassPanel
from wsi_vmamba.metrics.panel import Calibration


def class_cards(panel: ClassPanel, *, between: str) -> list[tuple[str, str, str]]:
    """What matters most of several classes."""
    counts = panel.called.counts
    wrong = int(counts.sum() - counts.diagonal().sum())
    each = zip(counts.sum(axis=1).tolist(), panel.classes, strict=True)
    return [
        ("Macro AUC", f"{panel.auc.value:.4f}", f"95 % interval {between}"),
        ("Judged", str(counts.sum()), ", ".join(f"{count} {name}" for count, name in each)),
        ("Called wrong", str(wrong), f"of {counts.sum()}, by the most probable class"),
        ("Calibration error", f"{panel.ece.value:.3f}", "ECE of the called class; 0 is perfect"),
    ]


def class_figures(slides: ScoredSlides, panel: ClassPanel) -> Html:
    """ROC of each class against the rest, and the calibration of the class that is called."""
    if slides.shares is None:  # several classes have them
        raise AssertionError("scores of several classes without probabilities")
    apart = [
        (name, replace(slides, labels=(slides.labels == k).astype(np.int64), scores=slides.shares[:, k]))
        for k, name in enumerate(panel.classes)
    ]
    said = [f"AUC {curves.with_interval(one.value, one.ci95, 3)}" for one in panel.by_class]
    named = [f"{name}: {words}" for name, words in zip(panel.classes, said, strict=True)]
    drawn = [
        curves.roc_figure(apart, said),
        curves.calibration_figure(
            Calibration(ece=panel.ece, brier=panel.brier, bins=panel.bins),
            share="Share that is called rightly",
        ),
    ]
    words = paragraph(f"Each class against the rest. {'; '.join(named)}.", mark="soft")
    return join([words, element("div", *drawn, class_="charts")])


def class_calls(panel: ClassPanel) -> Html:
    """How slides are called, and the confusion of the classes."""
    words = paragraph(
        "A slide is called the most probable of the classes; there is no threshold. Rows are what slides are, columns "
        "what they are called."
    )
    found = panel.called.to_dict()
    rows = [
        (name, *counts, shown_number(recall), shown_number(precision))
        for name, counts, recall, precision in zip(
            panel.classes, panel.called.counts.tolist(), panel.called.recalls, found["precision"], strict=True
        )
    ]
    columns = ("truth", *(f"called {name}" for name in panel.classes), "recall", "precision")
    return join([words, table(columns, rows, caption="Confusion of classes")])
