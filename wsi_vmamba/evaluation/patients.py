"""Scores of patients from the scores of their slides."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.metrics.classes import ClassPanel, class_panel
from wsi_vmamba.metrics.panel import SlidePanel, slide_panel

#: How patients are judged where all their slides have one label, and where they differ.
MEAN_RULE = "mean of the patient's slides"
HIGHEST_RULE = "highest of the patient's slides; a patient is positive if a slide is"


@dataclass(frozen=True, kw_only=True)
class PatientMetrics:
    """The patients of scored slides, with every metric that slides have.

    Attributes:
        patients: one line a patient; slide_ids are the names of the patients, patches the numbers of their slides.
        rule: how a patient's score comes from those of its slides.
        panel: the metrics.
    """

    patients: ScoredSlides
    rule: str
    panel: SlidePanel | ClassPanel

    def to_dict(self) -> dict[str, Any]:
        """All metrics, ready for JSON."""
        return {"n_patients": len(self.patients.labels), "score": self.rule, **self.panel.to_dict()}


def patient_metrics(slides: ScoredSlides, *, resamples: int, seed: int) -> PatientMetrics | None:
    """Judge patients.

    Returns:
        The metrics; None where every patient has one slide, where patients have slides of several of more than two
        classes, or where the patients are all of one class.
    """
    found = patients_of(slides)
    if found is None:
        return None
    patients, rule = found
    n_classes = 2 if patients.classes is None else len(patients.classes)
    if len(set(patients.labels.tolist())) < n_classes:
        return None
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    panel: SlidePanel | ClassPanel
    if patients.shares is not None and patients.classes is not None:
        panel = class_panel(patients.labels, patients.shares, classes=patients.classes, **how)
    else:
        panel = slide_panel(
            patients.labels, patients.scores, threshold=patients.threshold, groups=None, **how
        )
    return PatientMetrics(patients=patients, rule=rule, panel=panel)


def patients_of(slides: ScoredSlides) -> tuple[ScoredSlides, str] | None:
    """One line a patient, and how its score was made; None where there is nothing to put together."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, patient in enumerate(slides.patient_ids or ()):
        places[patient].append(place)
    if len(places) in (0, len(slides.labels)):
        return None
    labels = [sorted(set(slides.labels[each].tolist())) for each in places.values()]
    mixed = any(len(each) > 1 for each in labels)
    if mixed and slides.shares is not None:
        return None
    shares = None
    if slides.shares is not None:
        shares = np.stack([slides.shares[each].mean(axis=0) for each in places.values()])
        scores = shares.max(axis=1)
    else:
        combine = np.max if mixed else np.mean
        scores = np.array([combine(slides.scores[each]) for each in places.values()])
    patients = replace(
        slides,
        source=f"{len(places)} patients of {slides.source}",
        slide_ids=tuple(places),
        patient_ids=tuple(places),
        labels=np.array([each[-1] for each in labels], dtype=np.int64),
        scores=scores,
        shares=shares,
        groups=None,
        sites=None,
        patches=tuple(len(each) for each in places.values()),
        folds=None,
    )
    return patients, HIGHEST_RULE if mixed else MEAN_RULE
