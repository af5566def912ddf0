"""Predictions of patients from those of their slides: ``patients.csv``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsi_vmamba.bags import Bag, merge_bags
from wsi_vmamba.datasets.csv import read_manifest
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.prediction.predictor import Predictor
from wsi_vmamba.prediction.rows import PredictionRow, share_columns
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.slide.location import is_url

TABLE = "patients.csv"
COLUMNS = ("patient_id", "slides", "failed", "probability", "threshold", "decision")
_TABLES = (".csv", ".tsv")


def patients_given(slides: str) -> dict[str, str]:
    """Patient of each slide, as the CSV of slides names them; nothing where there is none, or it names no patients.

    Raises:
        DatasetError: the CSV is not as described.
    """
    path = Path(slides)
    if is_url(slides) or path.suffix.lower() not in _TABLES or not path.is_file():
        return {}
    records = read_manifest(path, root=path.parent, labels=False)
    named = {record.slide_id: record.patient_id for record in records}
    return named if any(slide != patient for slide, patient in named.items()) else {}


def save_patients(
    out: Path,
    rows: Sequence[PredictionRow],
    predictor: Predictor,
    patients: Mapping[str, str],
    *,
    load: Callable[[str], Bag],
) -> None:
    """Write a line for each patient of whom a slide was predicted.

    A model of patients is given all slides of the patient as one bag; of a model of slides it is the mean of what it
    says of them.

    Args:
        out: folder of the predictions.
        rows: of the slides.
        predictor: that made them.
        patients: patient of each slide.
        load: gives the bag of a slide.

    Raises:
        StoreError: the table cannot be written, or features are missing or damaged.
    """
    model = predictor.model
    of: dict[str, list[PredictionRow]] = defaultdict(list)
    for row in rows:
        of[patients[row.slide_id]].append(row)
    lines = []
    for patient, slides in sorted(of.items()):
        done = [row for row in slides if not row.failed]
        if not done:
            continue
        shares = (
            _of_bag(predictor, patient, [load(row.slide_id) for row in done])
            if model.members[0].spec.of_patients
            else np.mean([_shares(row, model.classes) for row in done], axis=0)
        )
        called = predictor.called(shares)
        probability = shares[called] if model.several else shares[1]
        threshold = "" if predictor.threshold is None else predictor.threshold
        head = (
            patient,
            len(done),
            len(slides) - len(done),
            float(probability),
            threshold,
            model.classes[called],
        )
        lines.append((*head, *(shares.tolist() if model.several else ())))
    more = share_columns(model.classes) if model.several else ()
    write_atomic(out / TABLE, csv_text((*COLUMNS, *more), lines))


def _shares(row: PredictionRow, classes: Sequence[str]) -> np.ndarray:
    """Probability of each class of a slide, (K,)."""
    if row.more:
        return np.array([float(row.more[name]) for name in share_columns(classes)])
    return np.array([1 - float(row.probability), float(row.probability)])


def _of_bag(predictor: Predictor, patient: str, bags: Sequence[Bag]) -> np.ndarray:
    """The same of all slides of a patient together."""
    said, _ = predictor.model.predict(merge_bags(SlideRecord(slide_id=patient), bags))
    return said.shares if said.shares is not None else np.array([1 - said.probability, said.probability])
