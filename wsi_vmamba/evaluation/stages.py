"""Stages of patients from the classes of their lymph nodes, as CAMELYON17 judges them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_vmamba.datasets.camelyon17 import NODES, SLIDE_CLASSES, STAGES, stage_of
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.metrics.bootstrap import BootstrappedResult
from wsi_vmamba.metrics.kappa import kappa_of_calls


@dataclass(frozen=True, kw_only=True)
class PatientStages:
    """The pN stage of each patient, by the labels of its slides and by what they were called.

    Attributes:
        patient_ids: names of the P patients.
        nodes: number of slides of each.
        true: stage of each, as number in STAGES.
        called: the same by the model.
        kappa: quadratic weighted, over patients.
    """

    patient_ids: tuple[str, ...]
    nodes: tuple[int, ...]
    true: tuple[int, ...]
    called: tuple[int, ...]
    kappa: BootstrappedResult

    @property
    def notes(self) -> list[str]:
        """What the kappa is based on where that is not five nodes a patient."""
        short = [name for name, nodes in zip(self.patient_ids, self.nodes, strict=True) if nodes != NODES]
        if not short:
            return []
        return [
            f"{len(short)} of {len(self.nodes)} patients have more or fewer slides than the {NODES} that CAMELYON17 "
            f"stages together, for example {short[0]}"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Kappa, confusion of stages and stages by patient, ready for JSON."""
        counts = np.zeros((len(STAGES), len(STAGES)), dtype=np.int64)
        np.add.at(counts, (self.true, self.called), 1)
        return {
            "stages": list(STAGES),
            "kappa": self.kappa.to_dict(),
            "confusion": counts.tolist(),
            "patients": {
                name: {"stage": STAGES[true], "called": STAGES[called]}
                for name, true, called in zip(self.patient_ids, self.true, self.called, strict=True)
            },
        }

    def rows(self) -> list[tuple[object, ...]]:
        """One row a patient: slides, stage, called stage."""
        return [
            (name, nodes, STAGES[true], STAGES[called])
            for name, nodes, true, called in zip(
                self.patient_ids, self.nodes, self.true, self.called, strict=True
            )
        ]


def patient_stages(slides: ScoredSlides, *, resamples: int, seed: int) -> PatientStages | None:
    """Stage the patients of scored slides; None unless the classes are those of lymph nodes."""
    called = slides.called
    if slides.classes is None or set(slides.classes) != set(SLIDE_CLASSES) or called is None:
        return None
    truth: dict[str, Counter[str]] = defaultdict(Counter)
    calls: dict[str, Counter[str]] = defaultdict(Counter)
    for place, patient in enumerate(slides.patient_ids or slides.slide_ids):
        truth[patient][slides.classes[slides.labels[place]]] += 1
        calls[patient][slides.classes[called[place]]] += 1
    true, by_model = ([STAGES.index(stage_of(counts)) for counts in each.values()] for each in (truth, calls))
    return PatientStages(
        patient_ids=tuple(truth),
        nodes=tuple(counts.total() for counts in truth.values()),
        true=tuple(true),
        called=tuple(by_model),
        kappa=kappa_of_calls(true, by_model, resamples=resamples, seed=seed),
    )
