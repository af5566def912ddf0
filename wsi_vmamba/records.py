"""Slides as rows of a table; splits that never divide a patient."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.slide.location import Location

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """One row of a data set.

    Attributes:
        slide_id: unique name; features lie in ``<features>/<slide_id>.zarr``.
        path: the slide file, or the URL of a zarr slide; None when only features are at hand.
        label: 0 or 1; None where unknown.
        patient_id: slides of one patient stay in one split; the slide's own name unless given.
        split: "train", "validation" or "test"; None where not decided.
        mpp: micrometres per level-0 pixel from the manifest; None: the file's own.
        annotation: polygons of the slide, where there are any.
        outlines_complete: whether all tumour of the slide is outlined, so that what lies outside is known to be none.
        counts_for_lesions: whether lesion-level metrics may judge the slide; an unmarked lesion that is found would
            count as a false positive.
        attributes: further columns, for example ``metastasis``.
        listed_at: file and line of the manifest, for messages.
    """

    slide_id: str
    path: Location | None = None
    label: int | None = None
    patient_id: str = ""
    split: str | None = None
    mpp: float | None = None
    annotation: Path | None = None
    outlines_complete: bool = True
    counts_for_lesions: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    listed_at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.slide_id:
            raise DatasetError("a slide needs a slide_id, got an empty one")
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.slide_id)
        if self.split not in {None, *SPLITS}:
            raise DatasetError(
                f"{self.slide_id}: split must be one of {', '.join(SPLITS)} or empty, got {self.split!r}"
            )


def check_records(records: Sequence[SlideRecord]) -> None:
    """Refuse a table that names a slide twice or has a patient in more than one split.

    Raises:
        DatasetError: naming the slides or the patients.
    """
    ids = Counter(record.slide_id for record in records)
    paths = Counter(str(record.path) for record in records if record.path is not None)
    for what, counts in (("slide_id", ids), ("path", paths)):
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise DatasetError(
                f"each slide may be listed once; {what} listed more than once: {_listed(twice)}"
            )
    check_leakage(records)


def check_leakage(records: Iterable[SlideRecord]) -> None:
    """Refuse a patient whose slides are in more than one split.

    Raises:
        DatasetError: naming each such patient and its splits.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split is not None:
            splits[record.patient_id].add(record.split)
    leaked = [
        f"{patient} ({', '.join(sorted(found))})"
        for patient, found in sorted(splits.items())
        if len(found) > 1
    ]
    if leaked:
        raise DatasetError(
            f"all slides of a patient belong in one split; {len(leaked)} patient(s) are in several: "
            f"{_listed(leaked)}"
        )


def split_by_patient(
    records: Sequence[SlideRecord], *, fraction: float, seed: int
) -> tuple[list[SlideRecord], list[SlideRecord]]:
    """Set a share of the patients apart for validation, the same share of each label.

    A patient counts for the highest label of its slides. The result depends on the seed and on the set of
    slides, not on their order.

    Args:
        records: labelled slides.
        fraction: share of the patients of each label to set apart, in (0, 1); at least one patient.
        seed: of the drawing.

    Returns:
        (train, validation), in the order given, with ``split`` set accordingly.

    Raises:
        DatasetError: a slide has no label or is listed twice, or a label has fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the validation fraction must lie between 0 and 1, got {fraction!r}")
    check_records([replace(record, split=None) for record in records])
    chosen: set[str] = set()
    generator = np.random.default_rng(seed)
    for label, patients in sorted(_patients_by_label(records).items()):
        if len(patients) < 2:
            raise DatasetError(
                f"label {label} has one patient ({patients[0]}), so it cannot be in training and validation; "
                "add slides of other patients, or give the split in the manifest"
            )
        count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
        chosen.update(generator.permutation(patients)[:count].tolist())
    return (
        [replace(record, split="train") for record in records if record.patient_id not in chosen],
        [replace(record, split="validation") for record in records if record.patient_id in chosen],
    )


def _patients_by_label(records: Sequence[SlideRecord]) -> dict[int, list[str]]:
    labels: dict[str, int] = {}
    for record in records:
        if record.label is None:
            raise DatasetError(f"{record.slide_id}: a slide for training needs a label")
        labels[record.patient_id] = max(record.label, labels.get(record.patient_id, record.label))
    groups: dict[int, list[str]] = defaultdict(list)
    for patient in sorted(labels):
        groups[labels[patient]].append(patient)
    return dict(groups)


def _listed(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
