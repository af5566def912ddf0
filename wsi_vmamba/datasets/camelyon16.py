"""CAMELYON16: the official split of 270 training and 129 test slides, with the data set's known defects."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from wsi_vmamba.datasets.csv import FLAG_NO_FROC, FLAG_PARTIAL, read_manifest
from wsi_vmamba.datasets.shipped import manifest_of
from wsi_vmamba.records import SlideRecord

COLUMNS = ("slide_id", "path", "label", "split", "metastasis", "fold", "flags")
#: Cross-validation folds over the training slides, stratified by label; the seed enters the hash that deals
#: them.
N_FOLDS = 5
FOLD_SEED = 16

#: normal_086 holds tumour and was published again as tumor_111; it is no slide of its own.
RELABELLED = {"normal_086": "tumor_111"}
#: test_049 shows the same tissue as another slide and was withdrawn.
WITHDRAWN = frozenset({"test_049"})
#: Not every metastasis is outlined: outside the outlines there may be tumour, so no negatives may be drawn
#: there.
PARTIALLY_ANNOTATED = frozenset(
    f"tumor_{number:03d}"
    for number in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)
) | {"test_114"}
#: A found but unmarked lesion would count as a false positive; the slide label is right and stays in the AUC.
NO_FROC = frozenset({"test_114"})
#: Test slides with tumour, by the size of the largest metastasis; all other test slides are normal.
MACRO = frozenset(
    f"test_{number:03d}"
    for number in (1, 2, 16, 21, 26, 27, 30, 40, 51, 61, 68, 71, 73, 75, 82, 90, 94, 104, 105, 113, 114, 121)
)
MICRO = frozenset(
    f"test_{number:03d}"
    for number in (
        4,
        8,
        10,
        11,
        13,
        29,
        33,
        38,
        46,
        48,
        52,
        64,
        65,
        66,
        69,
        74,
        79,
        84,
        92,
        97,
        99,
        102,
        108,
        110,
        116,
        117,
        122,
    )
)

FLAG_RELABELLED = "was_normal_086"


def load(*, manifest: Path | None = None, root: Path | None = None) -> list[SlideRecord]:
    """Return the 399 slides; label 1 is tumour, attributes hold ``metastasis``, ``fold`` and ``flags``.

    The slides come from as many patients, so each is its own patient.

    Args:
        manifest: a manifest of the same columns instead of the one shipped with the package.
        root: folder that holds ``images/``; without it the records carry no path, which is enough where
            features have been extracted.
    """
    return read_manifest(manifest or shipped_manifest(), root=root, positive="tumor")


def shipped_manifest() -> Path:
    """Path of the manifest that comes with the package.

    Raises:
        MissingDataError: the installation is incomplete.
    """
    return manifest_of("camelyon16")


def manifest_rows() -> Iterator[tuple[str, ...]]:
    """Yield the lines of the shipped manifest, in the order of COLUMNS; the file is made from these facts."""
    folds = _folds()
    for slide_id, tumor in _slides():
        split = "test" if slide_id.startswith("test_") else "train"
        yield (
            slide_id,
            f"images/{slide_id}.tif",
            "tumor" if tumor else "normal",
            split,
            _metastasis(slide_id, tumor=tumor),
            str(folds[slide_id]) if split == "train" else "",
            ";".join(_flags(slide_id)),
        )


def _slides() -> Iterator[tuple[str, bool]]:
    for number in range(1, 161):
        if f"normal_{number:03d}" not in RELABELLED:
            yield f"normal_{number:03d}", False
    for number in range(1, 112):
        yield f"tumor_{number:03d}", True
    for number in range(1, 131):
        slide_id = f"test_{number:03d}"
        if slide_id not in WITHDRAWN:
            yield slide_id, slide_id in MACRO | MICRO


def _metastasis(slide_id: str, *, tumor: bool) -> str:
    """Size of the metastasis; the organisers gave none for the training slides with tumour."""
    if slide_id in MACRO:
        return "macro"
    if slide_id in MICRO:
        return "micro"
    return "" if tumor else "none"


def _folds() -> dict[str, int]:
    """Deal the training slides of each label over the folds in the order of a seeded hash."""
    folds: dict[str, int] = {}
    for wanted in (False, True):
        members = [name for name, tumor in _slides() if tumor is wanted and not name.startswith("test_")]
        # A hash, not a random generator: the folds are published and must not change with a library.
        members.sort(key=lambda name: sha256(f"{FOLD_SEED}:{name}".encode()).hexdigest())
        folds.update({name: place % N_FOLDS for place, name in enumerate(members)})
    return folds


def _flags(slide_id: str) -> Iterator[str]:
    if slide_id in RELABELLED.values():
        yield FLAG_RELABELLED
    if slide_id in PARTIALLY_ANNOTATED:
        yield FLAG_PARTIAL
    if slide_id in NO_FROC:
        yield FLAG_NO_FROC
