"""What a folder is, from what lies in it; the viewer, reports and predictions all ask the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.folder_kinds import RESULTS, feature_files, is_feature_file, kind_of, result_in

FILES = {
    "run": ["train.run.json", "train.yaml"],
    "predictions": ["predict.run.json", "features/a.zarr/features/zarr.json"],
    "probe": ["results.json", "predictions.csv"],
    "features": ["a.zarr/features/zarr.json", "a.zarr/coords_l0/zarr.json"],
}


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_each_result_is_recognised_by_its_files(tmp_path, kind):
    assert set(FILES) == set(RESULTS)
    assert kind_of(make(tmp_path, *FILES[kind])) == result_in(tmp_path) == kind
    for name in FILES[kind]:
        if kind in {"run", "probe"}:  # half of them is none
            (tmp_path / name).rename(tmp_path / "away")
            assert result_in(tmp_path) is None
            (tmp_path / "away").rename(tmp_path / name)


def test_an_extraction_that_gave_no_features_is_one(tmp_path):
    assert kind_of(make(tmp_path, "extract.csv")) == "features"


def test_a_feature_file_is_told_from_a_zarr_slide_whole_or_damaged(tmp_path):
    make(
        tmp_path,
        *FILES["features"],
        "cut.zarr/features/zarr.json",
        "slide.zarr/zarr.json",
        "slide.zarr/0/zarr.json",
    )
    make(tmp_path, ".b.zarr.partial-x-1/features/zarr.json", ".b.zarr/features/zarr.json")
    assert [path.name for path in feature_files(tmp_path)] == ["a.zarr", "cut.zarr"]
    assert not is_feature_file(tmp_path / "slide.zarr")
    assert kind_of(tmp_path / "a.zarr") == "features"


def test_slides_at_any_depth_and_nothing(tmp_path):
    assert kind_of(tmp_path) is None
    make(tmp_path, "notes.txt")
    assert kind_of(tmp_path) is None
    (tmp_path / "x" / "y").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "x" / "y" / "s.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    assert (kind_of(tmp_path), result_in(tmp_path)) == ("slides", None)
