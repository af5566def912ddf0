"""Which slides are trained on, which decide when to stop, and how much each label counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import SlideRecord, check_records, classes_of, split_by_patient
from wsi_vmamba.training.model import NUM_CLASSES
from wsi_vmamba.training.settings import TrainSettings


def divide(
    records: Sequence[SlideRecord], settings: TrainSettings
) -> tuple[list[SlideRecord], list[SlideRecord], list[SlideRecord]]:
    """Return (test, training, validation) slides; without a validation split, patients are set apart for it.

    Raises:
        DatasetError: labels are missing, a slide is listed twice, a patient is in two splits, or training or
            validation lacks one of the labels, or there is one class only.
    """
    names = classes_of(records)
    if names is not None and len(names) < NUM_CLASSES:
        raise DatasetError(
            f"training tells classes apart, and all labelled slides are {names[0]}; add slides of others"
        )
    check_records(records)
    test = [record for record in records if record.split == "test"]
    validation = [record for record in records if record.split == "validation"]
    training = [replace(record, split="train") for record in records if record.split in {"train", None}]
    for record in [*training, *validation]:
        label_of(record)
    check_records([*test, *training, *validation])
    if not validation:
        training, validation = split_by_patient(
            training, fraction=settings.validation_fraction, seed=settings.seed
        )
    for name, part in (("training", training), ("validation", validation)):
        labels = sorted({label_of(record) for record in part})
        if labels != list(range(len(names or (0, 1)))):
            needed = "both labels, 0 and 1" if names is None else f"all classes, {', '.join(names)}"
            found = labels if names is None else ", ".join(names[label] for label in labels)
            raise DatasetError(
                f"the {name} slides need {needed}; these {len(part)} have {found}. "
                "Add slides, or leave the choice of validation slides out of the manifest"
            )
    return test, training, validation


def label_of(record: SlideRecord) -> int:
    """Return the label of a slide.

    Raises:
        DatasetError: it has none, or one that is neither 0 nor 1 and has no name.
    """
    if record.label is None or not (record.label_name or record.label in range(NUM_CLASSES)):
        raise DatasetError(
            f"{record.slide_id}: a slide for training needs the label 0 or 1, or the name of a class, got "
            f"{record.label!r}"
        )
    return record.label


def class_weights(records: Sequence[SlideRecord], *, balanced: bool) -> list[float]:
    """Weight of each label; with ``balanced`` each label has the same sum of weights; the mean is 1."""
    counts = [sum(record.label == label for record in records) for label in range(_n_labels(records))]
    return [len(records) / (len(counts) * count) if balanced else 1.0 for count in counts]


def _n_labels(records: Sequence[SlideRecord]) -> int:
    """Number of classes; training slides have all of them."""
    return max(NUM_CLASSES, 1 + max(label_of(record) for record in records))
