from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_vmamba.bags import Bag, BagLoader, grid_coords, load_bag
from wsi_vmamba.errors import DatasetError, IncompatibleStoreError, MissingDataError, StoreError, UsageError
from wsi_vmamba.records import SlideRecord, check_leakage, check_records, split_by_patient
from wsi_vmamba.store import FeatureMeta, FeatureWriter


def store(folder: Path, slide_id: str, features, coords_l0, **changes) -> None:
    fields = {
        "slide_id": slide_id,
        "slide_path": f"/slides/{slide_id}.tif",
        "reader": "tiff",
        "mpp": 0.23,
        "mpp_source": "file",
        "target_mpp": 0.5,
        "patch_px": 256,
        "patch_l0": 256 * 0.5 / 0.23,
        "plan": {},
        "segmenter": "otsu",
        "model": "null",
        "weights_hash": "00",
        "precision": "fp32",
        "versions": {},
    }
    meta = FeatureMeta(**{**fields, **changes})
    with FeatureWriter(folder / f"{slide_id}.zarr", meta, features.shape[1]) as writer:
        writer.append(features, coords_l0)
        writer.commit()


def patches(n_patches: int = 50, seed: int = 0, patch_l0: float = 256 * 0.5 / 0.23):
    generator = np.random.default_rng(seed)
    places = generator.integers(0, 400, size=(n_patches, 2))
    features = generator.normal(size=(n_patches, 6)).astype(np.float32)
    return features, np.floor(places * patch_l0 + 0.5).astype(np.int64), places


def test_load_bag_gives_float32_values_labels_and_grid(tmp_path):
    features, coords_l0, places = patches()
    store(tmp_path, "a", features, coords_l0)
    bag = load_bag(SlideRecord(slide_id="a", label=1, patient_id="p", split="test"), tmp_path)
    assert bag.features.dtype == np.float32
    np.testing.assert_array_equal(bag.features, features.astype(np.float16))
    np.testing.assert_array_equal(bag.coords_l0, coords_l0)
    np.testing.assert_array_equal(bag.coords_grid, places)
    assert (bag.label, bag.patient_id, bag.split) == (1, "p", "test")
    assert bag.source.model == "null"


def test_missing_features_say_where_and_what_to_run(tmp_path):
    with pytest.raises(MissingDataError, match=r"a: no features at .*a\.zarr; .*wsi-vmamba extract"):
        load_bag(SlideRecord(slide_id="a"), tmp_path)


@given(
    patch_l0=st.floats(32, 5000),
    places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=1, max_size=20),
    rounding=st.sampled_from([np.floor, np.rint, np.ceil]),
)
@settings(deadline=None)
def test_grid_places_survive_the_trip_through_level_0(patch_l0, places, rounding):
    expected = np.array(places, np.int64)
    coords_l0 = rounding(expected * patch_l0).astype(np.int64)
    np.testing.assert_array_equal(grid_coords(coords_l0, patch_l0=patch_l0, slide_id="s"), expected)


def test_grid_is_col_row_from_x_y_and_off_grid_corners_are_refused():
    coords_l0 = np.array([[512, 2048]], np.int64)
    np.testing.assert_array_equal(grid_coords(coords_l0, patch_l0=512.0, slide_id="s"), [[1, 4]])
    with pytest.raises(
        DatasetError, match=r"s: the patch at level-0 \(512, 2048\) lies 188\.0 px off the grid"
    ):
        grid_coords(coords_l0, patch_l0=700.0, slide_id="s")


def test_empty_bag_is_refused():
    with pytest.raises(DatasetError, match="s: the bag is empty"):
        Bag(
            slide_id="s",
            features=np.zeros((0, 4), np.float32),
            coords_l0=np.zeros((0, 2), np.int64),
            patch_l0=1.0,
        )


@pytest.mark.parametrize(
    ("features", "coords_l0"),
    [
        (np.zeros((3, 4), np.float64), np.zeros((3, 2), np.int64)),
        (np.zeros((3,), np.float32), np.zeros((3, 2), np.int64)),
        (np.zeros((3, 4), np.float32), np.zeros((2, 2), np.int64)),
        (np.zeros((3, 4), np.float32), np.zeros((3, 2), np.int32)),
    ],
)
def test_bag_refuses_wrong_shapes_and_types(features, coords_l0):
    with pytest.raises(UsageError, match="s: expected"):
        Bag(slide_id="s", features=features, coords_l0=coords_l0, patch_l0=1.0)


# --- loader ---


def test_loader_caches_up_to_its_limit_and_takes_labels_from_the_record(tmp_path):
    for name in "abc":
        features, coords_l0, _ = patches(50)
        store(tmp_path, name, features, coords_l0)
    load = BagLoader(tmp_path, cache_bytes=2 * 50 * 6 * 4)
    first = {name: load(SlideRecord(slide_id=name)) for name in "abc"}
    again = {name: load(SlideRecord(slide_id=name, label=1)) for name in "abc"}
    assert [again[name].features is first[name].features for name in "abc"] == [True, True, False]
    assert again["a"].label == 1
    np.testing.assert_array_equal(again["c"].features, first["c"].features)
    assert load.missing([SlideRecord(slide_id="a"), SlideRecord(slide_id="z")]) == ["z"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_hash": "11"}, "weights_hash: '00' and '11'"),
        ({"target_mpp": 1.0}, "target_mpp: 0.5 and 1.0"),
    ],
)
def test_loader_refuses_to_mix_features(tmp_path, changes, message):
    features, coords_l0, _ = patches()
    store(tmp_path, "a", features, coords_l0)
    store(tmp_path, "b", features, coords_l0, **changes)
    load = BagLoader(tmp_path)
    load(SlideRecord(slide_id="a"))
    with pytest.raises(IncompatibleStoreError, match=f"b: .*{message}"):
        load(SlideRecord(slide_id="b"))


def test_loader_reports_damage(tmp_path):
    features, coords_l0, _ = patches()
    store(tmp_path, "a", features, coords_l0)
    (tmp_path / "a.zarr" / "features" / "c" / "0" / "0").write_bytes(b"no")
    with pytest.raises(StoreError, match="damaged"):
        BagLoader(tmp_path)(SlideRecord(slide_id="a"))


# --- records and splits ---


def test_patient_is_the_slide_unless_given_and_records_travel():
    record = SlideRecord(slide_id="a", attributes={"metastasis": "micro"})
    assert record.patient_id == "a"
    assert pickle.loads(pickle.dumps(record)) == record
    with pytest.raises(DatasetError, match="split must be one of train, validation, test"):
        SlideRecord(slide_id="a", split="val")


def test_leakage_names_the_patients():
    records = [
        SlideRecord(slide_id="a1", patient_id="a", split="train"),
        SlideRecord(slide_id="a2", patient_id="a", split="test"),
        SlideRecord(slide_id="b1", patient_id="b", split="train"),
        SlideRecord(slide_id="b2", patient_id="b", split="train"),
    ]
    with pytest.raises(DatasetError, match=r"1 patient\(s\) are in several: a \(test, train\)$"):
        check_leakage(records)
    check_leakage(records[1:])


def test_duplicates_are_named():
    with pytest.raises(DatasetError, match=r"slide_id listed more than once: a$"):
        check_records([SlideRecord(slide_id="a"), SlideRecord(slide_id="b"), SlideRecord(slide_id="a")])
    same = Path("x.tif")
    with pytest.raises(DatasetError, match=r"path listed more than once: x\.tif$"):
        check_records([SlideRecord(slide_id="a", path=same), SlideRecord(slide_id="b", path=same)])


def cohort(*, normal: int, tumor: int, slides_each: int = 2) -> list[SlideRecord]:
    return [
        SlideRecord(
            slide_id=f"p{patient}s{slide}",
            patient_id=f"p{patient}",
            label=int(patient >= normal and slide == 0),
        )
        for patient in range(normal + tumor)
        for slide in range(slides_each)
    ]


def patients(records: list[SlideRecord], label: int) -> set[str]:
    positive = {record.patient_id for record in records if record.label == 1}
    return positive if label else {record.patient_id for record in records} - positive


def test_split_is_by_patient_and_the_same_share_of_each_label():
    train, validation = split_by_patient(cohort(normal=30, tumor=20), fraction=0.2, seed=0)
    assert (len(patients(validation, 0)), len(patients(validation, 1))) == (6, 4)
    assert (len(patients(train, 0)), len(patients(train, 1))) == (24, 16)
    assert Counter(record.split for record in train + validation) == {"train": 80, "validation": 20}
    check_records(train + validation)


def test_split_depends_on_the_seed_and_not_on_the_order():
    records = cohort(normal=30, tumor=20)
    chosen = {record.slide_id for record in split_by_patient(records, fraction=0.2, seed=3)[1]}
    assert {record.slide_id for record in split_by_patient(records[::-1], fraction=0.2, seed=3)[1]} == chosen
    assert {record.slide_id for record in split_by_patient(records, fraction=0.2, seed=4)[1]} != chosen


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_each_side_of_the_split_has_each_label(fraction):
    train, validation = split_by_patient(cohort(normal=2, tumor=3), fraction=fraction, seed=0)
    for part in (train, validation):
        assert {record.label for record in part} == {0, 1}


def test_split_refuses_what_it_cannot_divide():
    with pytest.raises(DatasetError, match=r"label 1 has one patient \(p4\)"):
        split_by_patient(cohort(normal=4, tumor=1), fraction=0.2, seed=0)
    with pytest.raises(DatasetError, match="x: a slide for training needs a label"):
        split_by_patient([SlideRecord(slide_id="x")], fraction=0.2, seed=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_by_patient(cohort(normal=4, tumor=4), fraction=1.0, seed=0)
