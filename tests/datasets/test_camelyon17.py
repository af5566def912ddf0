"""CAMELYON17: its manifest, folds that no patient is divided by, and the stage of a patient."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict

import pytest

from wsi_vmamba.datasets import DATASETS
from wsi_vmamba.datasets.camelyon17 import COLUMNS, NODES, SLIDE_CLASSES, STAGES, deal_folds, load, stage_of
from wsi_vmamba.datasets.shipped import manifest_of
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import SlideRecord, check_records, classes_of
from wsi_vmamba.training import split_folds


@pytest.fixture(scope="module")
def records() -> list[SlideRecord]:
    found: list[SlideRecord] = DATASETS.resolve("camelyon17")()
    return found


def test_five_nodes_of_each_of_a_hundred_patients_of_five_centres(records) -> None:
    patients = Counter(record.patient_id for record in records)
    assert len(patients) == 100
    assert set(patients.values()) == {NODES}
    assert classes_of(records) == SLIDE_CLASSES
    assert Counter(record.label_name for record in records) == {
        "negative": 323, "itc": 35, "micro": 57, "macro": 85,
    }  # fmt: skip
    centres = {record.patient_id: record.attributes["center"] for record in records}
    assert all(centres[f"patient_{number:03d}"] == str(number // 20) for number in range(100))
    check_records(records)


def test_the_stage_that_the_organisers_give_follows_from_the_slides(records) -> None:
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        nodes[record.patient_id][record.label_name] += 1
    stages = {record.patient_id: record.attributes["stage"] for record in records}
    assert {patient: stage_of(found) for patient, found in nodes.items()} == stages
    assert Counter(stages.values()) == {"pN0": 25, "pN0(i+)": 11, "pN1mi": 21, "pN1": 30, "pN2": 13}


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ({"negative": 5}, "pN0"),
        ({"negative": 4, "itc": 1}, "pN0(i+)"),
        ({"itc": 5}, "pN0(i+)"),
        ({"micro": 1, "itc": 4}, "pN1mi"),
        ({"micro": 5}, "pN1mi"),  # without a macrometastasis their number says nothing
        ({"macro": 1, "negative": 4}, "pN1"),
        ({"macro": 1, "micro": 2, "itc": 2}, "pN1"),  # isolated tumour cells do not count
        ({"macro": 1, "micro": 3, "negative": 1}, "pN2"),
        ({"macro": 4, "negative": 1}, "pN2"),
        ({"macro": 5}, "pN2"),
    ],
)
def test_the_stage_of_a_patient(nodes, stage) -> None:
    assert stage_of(nodes) == stage
    assert stage in STAGES


def test_the_folds_of_the_manifest_are_those_that_are_dealt_and_divide_no_patient(records) -> None:
    with manifest_of("camelyon17").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    dealt = deal_folds({row["patient"]: (row["center"], row["stage"]) for row in rows})
    assert {row["patient"]: int(row["fold"]) for row in rows} == dealt
    for fold in split_folds(records, folds=5, seed=0):
        held_out = [record for record in fold if record.split == "validation"]
        assert Counter(record.attributes["center"] for record in held_out) == dict.fromkeys("01234", 20)
        assert {record.label_name for record in held_out} == set(SLIDE_CLASSES)
        trained = {record.patient_id for record in fold if record.split == "train"}
        assert trained.isdisjoint(record.patient_id for record in held_out)


def test_a_stage_that_the_slides_do_not_give_is_refused(tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("slide_id,label,patient,stage\na,macro,p,pN1\nb,negative,p,pN1\n")
    assert [record.label_name for record in load(manifest=path)] == ["macro", "negative"]
    path.write_text("slide_id,label,patient,stage\na,macro,p,pN2\nb,negative,p,pN2\n")
    with pytest.raises(DatasetError, match=r"p: its stage is pN2, and its slides give pN1"):
        load(manifest=path)
