"""Labels of manifests: 0 and 1, names of classes, numbers that are listed, patients."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_vmamba.datasets.csv import load
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import classes_of


def manifest(folder: Path, labels: list[str], header: str = "slide_id,label") -> Path:
    path = folder / "slides.csv"
    path.write_text("\n".join([header, *(f"s{index},{label}" for index, label in enumerate(labels))]) + "\n")
    return path


def test_names_are_numbered_by_the_alphabet_or_as_the_user_says(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["lusc", "luad", "", "normal", "luad"])
    records = load(manifest=path)
    assert [record.label for record in records] == [1, 0, None, 2, 0]
    assert [record.label_name for record in records] == ["lusc", "luad", "", "normal", "luad"]
    assert classes_of(records) == ("luad", "lusc", "normal")
    ordered = load(manifest=path, classes=("normal", "lusc", "luad"))
    assert [record.label for record in ordered] == [1, 2, None, 0, 2]


def test_labels_0_and_1_have_no_names(tmp_path: Path) -> None:
    records = load(manifest=manifest(tmp_path, ["0", "1", "TRUE", "0.0"]))
    assert [(record.label, record.label_name) for record in records] == [(0, ""), (1, ""), (1, ""), (0, "")]
    assert classes_of(records) is None


def test_numbered_classes_are_listed(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["3", "1", "2", "10"])
    with pytest.raises(DatasetError, match=r"line 2: label must be 0 or 1, .*got '3'; .*--class"):
        load(manifest=path)
    records = load(manifest=path, classes=("1", "2", "3", "10"))
    assert [record.label for record in records] == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["luad", "Luad"], r"line 3: label 'Luad' and 'luad' \(line 2\) differ in case"),
        (["luad", "lu ad", "lusc"], "differ in case or blanks"),
        (["0", "1", "tumor"], "line 4: label must be 0 or 1, or empty where unknown, got 'tumor'"),
        (["luad", "lusc", "1"], "line 2: label must be 0 or 1"),
    ],
)
def test_what_may_be_a_slip_is_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(manifest=manifest(tmp_path, labels))


def test_a_label_that_is_not_listed_and_a_class_without_a_slide_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["luad", "lusc", "lusd"])
    with pytest.raises(DatasetError, match=r"line 4: label must be one of luad, lusc, or empty .*got 'lusd'"):
        load(manifest=path, classes=("luad", "lusc"))
    with pytest.raises(DatasetError, match="no slide is labelled normal; labels present: luad, lusc, lusd"):
        load(manifest=path, classes=("luad", "lusc", "lusd", "normal"))
    with pytest.raises(DatasetError, match="two or more different classes"):
        load(manifest=path, classes=("luad", "luad", "lusc"))


def test_the_column_patient_is_that_of_patients(tmp_path: Path) -> None:
    path = tmp_path / "slides.csv"
    path.write_text("slide_id,label,patient\na,x,p1\nb,x,p1\nc,y,\n")
    assert [record.patient_id for record in load(manifest=path)] == ["p1", "p1", "c"]
    path.write_text("slide_id,label,patient,patient_id\na,x,p1,p1\nb,y,p1,p2\n")
    with pytest.raises(DatasetError, match="line 3: patient_id is 'p2' and patient 'p1'"):
        load(manifest=path)
    path.write_text("slide_id,label,Patient\na,x,p1\nb,y,p1\n")
    with pytest.raises(DatasetError, match="'Patient' must be called 'patient'"):
        load(manifest=path)
