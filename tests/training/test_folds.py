from __future__ import annotations

from collections import Counter

import pytest

from wsi_vmamba.datasets import DATASETS
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import source_of_folds, split_folds


def cohort(n_patients: int = 23, *, slides_each: int = 2) -> list[SlideRecord]:
    """Every third patient has a tumour, in the second of its slides only."""
    return [
        SlideRecord(slide_id=f"p{p:02}_{s}", patient_id=f"p{p:02}", label=int(p % 3 == 0 and s == 1))
        for p in range(n_patients)
        for s in range(slides_each)
    ]


def held_out(split: list[SlideRecord]) -> set[str]:
    return {record.slide_id for record in split if record.split == "validation"}


@pytest.mark.parametrize("folds", [2, 5])
def test_each_slide_is_held_out_once_and_no_patient_is_divided(folds):
    records = cohort()
    splits = split_folds(records, folds=folds, seed=0)
    assert len(splits) == folds
    counts = Counter(slide for split in splits for slide in held_out(split))
    assert counts == {record.slide_id: 1 for record in records}
    for split in splits:
        assert [record.slide_id for record in split] == [record.slide_id for record in records]
        groups = {name: {r.patient_id for r in split if r.split == name} for name in ("train", "validation")}
        assert not groups["train"] & groups["validation"]
        assert groups["train"] | groups["validation"] == {r.patient_id for r in records}


def test_labels_are_spread_evenly_and_so_are_patients():
    splits = split_folds(cohort(), folds=5, seed=3)
    patients = [{r.patient_id for r in split if r.split == "validation"} for split in splits]
    tumors = [sum(int(name[1:]) % 3 == 0 for name in fold) for fold in patients]
    assert sorted(tumors) == [1, 1, 2, 2, 2]  # 8 patients
    assert {len(fold) - tumor for fold, tumor in zip(patients, tumors, strict=True)} == {3}  # 15
    assert max(map(len, patients)) - min(map(len, patients)) <= 1


def test_the_seed_and_nothing_else_decides():
    records = cohort()
    first = [held_out(split) for split in split_folds(records, folds=4, seed=7)]
    assert [held_out(split) for split in split_folds(records[::-1], folds=4, seed=7)] == first
    assert [held_out(split) for split in split_folds(records, folds=4, seed=8)] != first


def test_the_folds_of_the_manifest_are_used_where_it_has_as_many():
    records = DATASETS.resolve("camelyon16")()
    splits = split_folds(records, folds=5, seed=99)
    for number, split in enumerate(splits):
        expected = {r.slide_id for r in records if r.attributes["fold"] == str(number)}
        assert held_out(split) == expected
        assert sum(r.split == "test" for r in split) == 129
    assert held_out(split_folds(records, folds=3, seed=99)[0]) != held_out(splits[0])


def test_folds_for_some_slides_only_are_refused_rather_than_passed_over():
    records = [
        SlideRecord(slide_id=f"s{i}", label=i % 2, attributes={"fold": str(i // 2 % 2) if i != 5 else ""})
        for i in range(12)
    ]
    with pytest.raises(DatasetError, match=r"1 of 12 slides for training have no fold \(s5\)"):
        split_folds(records, folds=2, seed=0)
    without = [SlideRecord(slide_id=r.slide_id, label=r.label, attributes={"fold": ""}) for r in records]
    assert len(split_folds(without, folds=2, seed=0)) == 2


def test_it_is_said_whose_folds_they_are():
    records = DATASETS.resolve("camelyon16")()
    assert source_of_folds(records, folds=5, seed=0) == "the 5 folds of the manifest"
    assert source_of_folds(records, folds=3, seed=4) == "3 folds dealt by seed 4 (the manifest has 5)"
    assert source_of_folds(cohort(), folds=3, seed=4) == "3 folds dealt by seed 4"


def test_patients_in_two_folds_or_in_the_test_split_are_refused():
    records = cohort()
    folds = [
        SlideRecord(
            slide_id=r.slide_id, patient_id=r.patient_id, label=r.label, attributes={"fold": str(i % 2)}
        )
        for i, r in enumerate(records)
    ]
    with pytest.raises(DatasetError, match=r"p00 is in 0 and 1"):
        split_folds(folds, folds=2, seed=0)
    leaked = [*records, SlideRecord(slide_id="t", patient_id="p05", label=0, split="test")]
    with pytest.raises(DatasetError, match=r"p05 \(test, train\)"):
        split_folds(leaked, folds=2, seed=0)


def test_too_many_or_too_few_folds_are_refused():
    with pytest.raises(DatasetError, match="at least 9 patients of label 1, there are 8"):
        split_folds(cohort(), folds=9, seed=0)
    with pytest.raises(UsageError, match="at least 2 folds, got 1"):
        split_folds(cohort(), folds=1, seed=0)
