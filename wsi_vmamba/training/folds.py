"""Cross-validation: the slides that are not for testing, dealt into folds by patient and label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.records import SlideRecord, check_records
from wsi_vmamba.training.slides import label_of

#: Column of a manifest that deals the folds itself, as that of CAMELYON16 does.
FOLD_COLUMN = "fold"


def split_folds(records: Sequence[SlideRecord], *, folds: int, seed: int) -> list[list[SlideRecord]]:
    """Return the data set once per fold: its slides are "validation", all others "train", test slides as they are.

    A manifest with as many folds in its column ``fold`` decides; else patients are dealt by ``seed``, each fold
    getting the same number of each label, but for one. A patient counts for the highest label of
    its slides.

    Raises:
        UsageError: fewer than two folds.
        DatasetError: a slide has no label or is listed twice, a patient is in two folds or also in the test
            split, the manifest has folds for some slides only, or there are fewer patients of a label than folds.
    """
    if folds < 2:
        raise UsageError(f"cross-validation needs at least 2 folds, got {folds}")
    test = [record for record in records if record.split == "test"]
    rest = [replace(record, split="train") for record in records if record.split != "test"]
    check_records([*test, *rest])
    given = _given_folds(rest)
    fold_of = given if len(set(given.values())) == folds else _dealt(rest, folds=folds, seed=seed)
    names = sorted(set(fold_of.values()))
    return [
        [*(replace(r, split="validation" if fold_of[r.patient_id] == name else "train") for r in rest), *test]
        for name in names
    ]


def source_of_folds(records: Sequence[SlideRecord], *, folds: int, seed: int) -> str:
    """Say where `split_folds` takes the folds from, for people."""
    given = len(set(_given_folds([record for record in records if record.split != "test"]).values()))
    if given == folds:
        return f"the {folds} folds of the manifest"
    return f"{folds} folds dealt by seed {seed}" + (f" (the manifest has {given})" if given else "")


def _given_folds(records: Sequence[SlideRecord]) -> dict[str, str]:
    """Fold of each patient as the manifest says, empty where it says nothing of folds."""
    without = [record.slide_id for record in records if not record.attributes.get(FOLD_COLUMN)]
    if len(without) == len(records):
        return {}
    if without:
        raise DatasetError(
            f"{len(without)} of {len(records)} slides for training have no fold ({', '.join(without[:5])}), the others "
            f"do: fill the column {FOLD_COLUMN}, or leave it out"
        )
    found: dict[str, str] = {}
    for record in records:
        fold = record.attributes[FOLD_COLUMN]
        if found.setdefault(record.patient_id, fold) != fold:
            raise DatasetError(
                f"all slides of a patient belong in one fold; {record.patient_id} is in {found[record.patient_id]} "
                f"and {fold}: mend the column {FOLD_COLUMN}"
            )
    return found


def _dealt(records: Sequence[SlideRecord], *, folds: int, seed: int) -> dict[str, str]:
    labels: dict[str, int] = defaultdict(int)
    for record in records:
        labels[record.patient_id] = max(labels[record.patient_id], label_of(record))
    generator = np.random.default_rng(seed)
    dealt: dict[str, str] = {}
    names = {label_of(record): record.label_name or str(record.label) for record in records}
    for label in sorted({0, 1} | set(labels.values())):
        patients = sorted(patient for patient, found in labels.items() if found == label)
        if len(patients) < folds:
            raise DatasetError(
                f"{folds} folds need at least {folds} patients of label {names.get(label, label)}, there are "
                f"{len(patients)}; "
                "use fewer folds"
            )
        # Every second label is dealt backwards, so that the folds left short of one are not short of both.
        turns = [f"{fold:03d}" for fold in range(folds)][:: -1 if label % 2 else 1]
        order = generator.permutation(patients).tolist()
        dealt.update({patient: turns[place % folds] for place, patient in enumerate(order)})
    return dealt
