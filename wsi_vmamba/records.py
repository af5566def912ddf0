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
        label: 0 or 1, or the place of its class in their order; None where unknown.
        label_name: name of that class; empty where labels are 0 and 1.
        patient_id: slides of one patient stay in one split; the slide's own name unless given.
        split: "train", "validation" or "test"; None where not decided.
        mpp: micrometres per level-0 pixel from the manifest; None: the file's own.
        annotation: polygons of the slide, where there are any.
        outlines_complete: whether all tumour of the slide is outlined, so that what lies outside is known to be none.
        counts_for_lesions: whether lesion-level metrics may judge the slide; an unmarked lesion that is found would
            count as a false positive.
        attributes: further columns, for example ``metastasis``.
        listed_at: file and line of the manifest, for messages.
        members: of a patient that stands for its slides, those slides; see `of_patients`.
    """

    slide_id: str
    path: Location | None = None
    label: int | None = None
    label_name: str = ""
    patient_id: str = ""
    split: str | None = None
    mpp: float | None = None
    annotation: Path | None = None
    outlines_complete: bool = True
    counts_for_lesions: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    listed_at: str = field(default="", compare=False)
    members: tuple[SlideRecord, ...] = ()

    def __post_init__(self) -> None:
        if not self.slide_id:
            raise DatasetError("a slide needs a slide_id, got an empty one")
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.slide_id)
        if self.split not in {None, *SPLITS}:
            raise DatasetError(
                f"{self.slide_id}: split must be one of {', '.join(SPLITS)} or empty, got {self.split!r}"
            )

    @property
    def slides(self) -> tuple[SlideRecord, ...]:
        """The slides that this is: itself, or those of the patient."""
        return self.members or (self,)


def classes_of(records: Iterable[SlideRecord]) -> tuple[str, ...] | None:
    """Names of the classes of a data set in the order of their numbers; None where labels are 0 and 1.

    Raises:
        DatasetError: there are more than two classes and they have no names, or a number has none or several.
    """
    names: dict[int, set[str]] = defaultdict(set)
    for record in records:
        if record.label is not None:
            names[record.label].add(record.label_name)
    if all(found == {""} for found in names.values()):
        odd = sorted(label for label in names if label not in (0, 1))
        if odd:
            raise DatasetError(f"labels must be 0 or 1, or have the names of their classes, got {odd[0]}")
        return None
    numbers = sorted(names)
    if numbers != list(range(len(numbers))) or any(len(found) > 1 for found in names.values()):
        shown = ", ".join(f"{number}: {' and '.join(map(repr, sorted(names[number])))}" for number in numbers)
        raise DatasetError(f"classes are numbered from 0 on, each with one name, got {shown}")
    return tuple(next(iter(names[number])) for number in numbers)


def of_patients(records: Sequence[SlideRecord]) -> list[SlideRecord]:
    """One record a patient, in the order of their first slides, that stands for all slides of the patient.

    Raises:
        DatasetError: slides of a patient have different labels or splits, or a patient has the name of another's slide.
    """
    slides: dict[str, list[SlideRecord]] = defaultdict(list)
    for record in records:
        slides[record.patient_id].append(record)
    check_records(records)
    return [_patient(patient, tuple(found)) for patient, found in slides.items()]


def _patient(patient: str, slides: tuple[SlideRecord, ...]) -> SlideRecord:
    first = slides[0]
    if len({(slide.label, slide.label_name, slide.split) for slide in slides}) > 1:
        found = ", ".join(
            f"{one.slide_id} {one.label_name or one.label} {one.split or ''}".strip() for one in slides
        )
        raise DatasetError(
            f"{patient}: its slides are one bag with one label and one split, got {found}; write the patient's label "
            "and split in every line of it"
        )
    shared = {
        name: value
        for name, value in first.attributes.items()
        if all(slide.attributes.get(name) == value for slide in slides)
    }
    return SlideRecord(
        slide_id=patient, label=first.label, label_name=first.label_name, patient_id=patient, split=first.split,
        outlines_complete=False, counts_for_lesions=False, attributes=shared, listed_at=first.listed_at, members=slides,
    )  # fmt: skip


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
