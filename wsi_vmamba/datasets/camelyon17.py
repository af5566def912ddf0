"""CAMELYON17: 100 labelled patients of five centres, five lymph nodes each, and the stage that follows from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from wsi_vmamba.datasets.csv import read_manifest, read_rows
from wsi_vmamba.datasets.shipped import manifest_of
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import SlideRecord

COLUMNS = ("slide_id", "path", "label", "patient", "center", "stage", "fold")
#: Of a lymph node, in the order of how much tumour it holds: isolated tumour cells, micro- and macrometastases.
SLIDE_CLASSES = ("negative", "itc", "micro", "macro")
#: Of a patient, in their order; kappa counts the steps between them.
STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")
#: Lymph nodes of a patient.
NODES = 5
#: Nodes with metastases from which on a patient with a macrometastasis is pN2.
_FROM_PN2 = 4
#: Cross-validation folds over the patients, stratified by centre and stage; the seed enters the hash that deals them.
N_FOLDS = 5
FOLD_SEED = 17


def load(*, manifest: Path | None = None, root: Path | None = None) -> list[SlideRecord]:
    """Return the 500 labelled slides; classes are SLIDE_CLASSES, attributes hold ``center``, ``stage`` and ``fold``.

    The labels of the 100 test patients are not public.

    Args:
        manifest: a manifest of the same columns instead of the one shipped with the package.
        root: folder of the slides; without it the records carry no path, which is enough where features have been
            extracted.

    Raises:
        DatasetError: a patient's stage is not that which its slides give.
    """
    path = manifest or manifest_of("camelyon17")
    present = {row["label"] for row in read_rows(path).rows if row.get("label")}
    records = read_manifest(path, root=root, classes=[name for name in SLIDE_CLASSES if name in present])
    _check_stages(records)
    return records


def stage_of(nodes: Mapping[str, int]) -> str:
    """Return the pN stage of a patient from how many of its nodes are of each class.

    Without a macrometastasis the largest metastasis decides. With one, the number of nodes with metastases does, up to
    three or more; isolated tumour cells are no metastasis and do not count.
    """
    if nodes.get("macro", 0):
        return "pN2" if nodes["macro"] + nodes.get("micro", 0) >= _FROM_PN2 else "pN1"
    if nodes.get("micro", 0):
        return "pN1mi"
    return "pN0(i+)" if nodes.get("itc", 0) else "pN0"


def deal_folds(patients: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Deal patients, each with its centre and stage, over the folds: of every centre as many, of every stage nearly."""
    folds: dict[str, int] = {}
    for first, center in enumerate(sorted({center for center, _ in patients.values()})):
        members = [name for name, (of, _) in patients.items() if of == center]
        # A hash, not a random generator: the folds are published and must not change with a library.
        members.sort(
            key=lambda name: (
                STAGES.index(patients[name][1]),
                sha256(f"{FOLD_SEED}:{name}".encode()).hexdigest(),
            )
        )
        # Every centre begins with another fold, so that what is left over of a stage is not always the same one's.
        folds.update({name: (first + place) % N_FOLDS for place, name in enumerate(members)})
    return folds


def _check_stages(records: list[SlideRecord]) -> None:
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    stages: dict[str, str] = {}
    for record in records:
        nodes[record.patient_id][record.label_name] += 1
        stages[record.patient_id] = record.attributes.get("stage", "")
    for patient, stage in stages.items():
        found = nodes[patient]
        if stage and not found[""] and stage_of(found) != stage:
            raise DatasetError(
                f"{patient}: its stage is {stage}, and its slides give {stage_of(found)} ({dict(found)}); mend one"
            )
