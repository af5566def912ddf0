"""The facts of CAMELYON16: counts, defects, folds, and the shipped table made from them."""

import csv
from collections import Counter

import pytest

from wsi_vmamba.datasets import DATASETS
from wsi_vmamba.datasets.camelyon16 import (
    COLUMNS,
    N_FOLDS,
    allows_negatives,
    flags_of,
    load,
    manifest_rows,
    shipped_manifest,
)
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import check_records


@pytest.fixture(scope="module")
def records():
    return load()


def test_the_official_split(records):
    assert Counter((record.split, record.label) for record in records) == {
        ("train", 0): 159,
        ("train", 1): 111,
        ("test", 0): 80,
        ("test", 1): 49,
    }
    assert len({record.slide_id for record in records}) == 399
    check_records(records)


def test_the_shipped_file_is_the_table_of_the_facts():
    with shipped_manifest().open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert [tuple(row) for row in rows] == list(manifest_rows())


def test_normal_086_is_tumor_111_and_test_049_is_absent(records):
    by_id = {record.slide_id: record for record in records}
    assert {"normal_086", "test_049", "normal_161", "tumor_112", "test_131"}.isdisjoint(by_id)
    assert by_id["tumor_111"].label == 1
    assert flags_of(by_id["tumor_111"]) == ("was_normal_086",)
    assert by_id["test_114"].split == "test"


def test_flags(records):
    flagged = {record.slide_id: flags_of(record) for record in records if flags_of(record)}
    partial = {name for name, flags in flagged.items() if "partial_annotation" in flags}
    numbers = (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)
    assert partial == {f"tumor_{number:03d}" for number in numbers} | {"test_114"}
    assert [name for name, flags in flagged.items() if "no_froc" in flags] == ["test_114"]


def test_negatives_may_be_drawn_wherever_all_lesions_are_outlined(records):
    refused = [record.slide_id for record in records if not allows_negatives(record)]
    assert len(refused) == 21
    assert {"tumor_010", "tumor_110", "test_114"} <= set(refused)
    assert not any(name.startswith("normal_") for name in refused)


def test_paths_are_relative_and_those_of_the_bucket(records):
    with shipped_manifest().open(newline="", encoding="utf-8") as file:
        paths = {row["slide_id"]: row["path"] for row in csv.DictReader(file)}
    assert paths == {record.slide_id: f"images/{record.slide_id}.tif" for record in records}


def test_labels_and_sizes_of_the_test_slides(records, real_data):
    with (real_data / "camelyon16" / "test_labels.csv").open(newline="") as file:
        official = {
            row["slide_id"]: (int(row["label"] == "tumor"), row["metastasis"]) for row in csv.DictReader(file)
        }
    ours = {r.slide_id: (r.label, r.attributes["metastasis"]) for r in records if r.split == "test"}
    assert ours == official


def test_sizes_of_the_training_slides_are_known_only_where_there_is_none(records):
    sizes = Counter((r.label, r.attributes["metastasis"]) for r in records if r.split == "train")
    assert sizes == {(0, "none"): 159, (1, ""): 111}


def test_folds_are_stratified_and_hold_each_training_slide_once(records):
    folds = Counter((r.attributes["fold"], r.label) for r in records if r.split == "train")
    for label, total in ((0, 159), (1, 111)):
        sizes = [folds[str(fold), label] for fold in range(N_FOLDS)]
        assert sum(sizes) == total
        assert max(sizes) - min(sizes) <= 1
    assert {r.attributes["fold"] for r in records if r.split == "test"} == {""}


def test_published_folds_do_not_change(records):
    fold_of = {record.slide_id: record.attributes["fold"] for record in records}
    assert [fold_of[name] for name in ("normal_001", "normal_160", "tumor_001", "tumor_111")] == [
        "4",
        "3",
        "4",
        "1",
    ]


def test_paths_start_from_the_root_that_is_given(records, tmp_path):
    assert all(record.path is None for record in records)
    assert load(root=tmp_path)[0].path == tmp_path / "images" / "normal_001.tif"


def test_another_manifest_may_be_given(tmp_path):
    manifest = tmp_path / "mine.csv"
    manifest.write_text("slide_id,label,split\na,tumor,train\nb,normal,test\n")
    assert [record.label for record in load(manifest=manifest)] == [1, 0]


def test_every_data_set_of_the_table_loads_a_manifest(tmp_path):
    manifest = tmp_path / "mine.csv"
    manifest.write_text("slide_id,label,split\na,1,train\nb,0,test\n")
    for name in set(DATASETS) - {"camelyon16"}:
        assert [record.slide_id for record in DATASETS.resolve(name)(manifest=manifest)] == ["a", "b"]
    # CAMELYON16 writes its labels as names.
    with pytest.raises(DatasetError, match="no slide is labelled 'tumor'; labels present: 0, 1"):
        DATASETS.resolve("camelyon16")(manifest=manifest)
