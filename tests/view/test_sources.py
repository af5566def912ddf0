"""What is opened: folders that change, features whose slide moved, runs, predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from wsi_vmamba.config import TrainConfig, ViewConfig, dump_config
from wsi_vmamba.durable import csv_text
from wsi_vmamba.errors import UsageError
from wsi_vmamba.view.targets import open_target

PLACES = [(2, 1), (3, 1), (2, 2)]


def test_slides_that_appear_later_are_found_and_those_that_go_are_gone(view, tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(200, 200))
    viewer = view(tmp_path)
    before = viewer.get("/slides")
    assert viewer.get("/slides", if_none_match=before.headers["etag"]).status == 304
    write_slide(tmp_path / "later" / "b.tif", picture(200, 200))
    assert set(viewer.slides()) == {"a", "b"}
    assert viewer.get(f"/slides/{viewer.id_of('b')}").json["size"] == {"width": 200, "height": 200}
    gone = viewer.id_of("a")
    (tmp_path / "a.tif").unlink()
    assert set(viewer.slides()) == {"b"}
    assert viewer.get(f"/slides/{gone}").status == 404


def test_two_slides_of_one_name_are_told_apart(view, tmp_path, picture, write_slide):
    for folder in ("x", "y"):
        write_slide(tmp_path / folder / "a.tif", picture(200, 200))
    assert set(view(tmp_path).slides()) == {"x__a.tif", "y__a.tif"}


def test_features_find_their_slide_where_it_was_and_where_it_went(
    view, tmp_path, picture, write_slide, write_features
):
    slide = write_slide(tmp_path / "old" / "s1.tif", picture(640, 512))
    write_features(tmp_path / "features", "s1", PLACES, np.eye(3), slide_path=slide)
    viewer = view(open_target(ViewConfig(target=str(tmp_path / "features"))))
    assert viewer.slides()["s1"]["warning"] is None
    assert viewer.get(f"/slides/{viewer.id_of('s1')}").json["reader"] == "tiff"

    (tmp_path / "new").mkdir()
    slide.rename(tmp_path / "new" / "s1.tif")
    moved = view(open_target(ViewConfig(target=str(tmp_path / "features"))))
    assert "--slides" in moved.slides()["s1"]["warning"]
    blank = moved.get(f"/slides/{moved.id_of('s1')}").json
    assert (blank["reader"], blank["size"]) == ("blank", {"width": 640, "height": 512})

    told = view(open_target(ViewConfig(target=str(tmp_path / "features"), slides=str(tmp_path / "new"))))
    assert told.get(f"/slides/{told.id_of('s1')}").json["reader"] == "tiff"


def test_a_damaged_feature_file_is_listed_with_its_error(view, tmp_path, write_features):
    write_features(tmp_path / "f", "good", PLACES, np.eye(3))
    bad = write_features(tmp_path / "f", "bad", PLACES, np.eye(3))
    (bad / "zarr.json").write_text("{")
    viewer = view(open_target(ViewConfig(target=str(tmp_path / "f"))))
    assert "damaged" in viewer.slides()["bad"]["error"]
    assert viewer.slides()["good"]["error"] is None
    assert str(tmp_path).encode() not in viewer.get("/slides").body


def make_run(folder, manifest, features):
    folder.mkdir(parents=True)
    config = TrainConfig(dataset="csv", manifest=str(manifest), features=str(features))
    (folder / "train.yaml").write_text(dump_config(config))
    (folder / "train.run.json").write_text("{}")
    (folder / "splits.csv").write_text(
        csv_text(
            ("slide_id", "patient_id", "label", "split"), [("s1", "p1", 1, "test"), ("s2", "p2", 0, "train")]
        )
    )
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "slides.csv").write_text(
        csv_text(
            ("slide_id", "patient_id", "label", "probability", "called", "group", "patches"),
            [("s1", "p1", 1, 0.25, 0, "", 3)],
        )
    )
    (folder / "evaluation" / "metrics.json").write_text(
        json.dumps({"slide_metrics": {"balanced_accuracy": {"threshold": 0.5}}})
    )
    return folder


def test_a_run_lists_its_slides_with_labels_splits_scores_and_what_was_wrong(
    view, tmp_path, picture, write_slide, write_features
):
    for name in ("s1", "s2"):
        write_slide(tmp_path / "slides" / f"{name}.tif", picture(640, 512))
        write_features(tmp_path / "features", name, PLACES, np.eye(3), slide_path="elsewhere.tif")
    manifest = tmp_path / "slides" / "m.csv"
    manifest.write_text("slide_id,path,label,patient_id\ns1,s1.tif,1,p1\ns2,s2.tif,0,p2\n")
    run = make_run(tmp_path / "runs" / "r", manifest, tmp_path / "features")
    viewer = view(open_target(ViewConfig(target=str(run))))
    one, two = viewer.slides()["s1"], viewer.slides()["s2"]
    told = ("label", "split", "score", "decision", "wrong", "patient")
    assert [one[name] for name in told] == [1, "test", 0.25, 0, True, "p1"]
    assert [two[name] for name in told] == [0, "train", None, None, False, "p2"]
    assert (one["warning"], one["has_features"]) == (None, True)
    assert viewer.get("/session").json["threshold"] == 0.5


def test_a_prediction_folder_shows_scores_decisions_and_values_of_patches(
    view, tmp_path, picture, write_slide
):
    slide = write_slide(tmp_path / "s1.tif", picture(640, 512))
    out = tmp_path / "predicted"
    (out / "patches").mkdir(parents=True)
    (out / "predict.run.json").write_text(json.dumps({"threshold": 0.4, "features": str(tmp_path / "none")}))
    lines = [
        "slide_id,path,probability,threshold,decision,patches,mpp,unlike,unlike_why,outcome,detail,remedy",
        f"s1,{slide},0.75,0.4,positive,3,0.5,mpp,its mpp is unlike,done,,",
        "s2,/no/where.tif,,,,,,,,failed,the disk is gone,",
    ]
    (out / "predictions.csv").write_text("\n".join(lines) + "\n")
    facts = {"version": 1, "patch_l0": 64.0, "patch_px": 64, "target_mpp": 0.5}
    tensors = {
        "coords_l0": np.array(PLACES, np.int64) * 64, "attention": np.array([0.7, 0.2, 0.1], np.float32),
        "probability": np.array([0.9, 0.5, 0.1], np.float32),
    }  # fmt: skip
    safetensors.numpy.save_file(
        tensors, out / "patches" / "s1.safetensors", {"wsi_vmamba": json.dumps(facts)}
    )
    viewer = view(open_target(ViewConfig(target=str(out))))
    one, two = viewer.slides()["s1"], viewer.slides()["s2"]
    assert (one["score"], one["decision"], one["warning"]) == (0.75, 1, "its mpp is unlike")
    assert two["error"] == "the disk is gone"
    layers = {each["id"] for each in viewer.get(f"/slides/{one['id']}/layers").json["layers"]}
    assert layers == {"attention", "probability", "predicted"}
    top = viewer.get(f"/slides/{one['id']}/patches?by=probability&top=1").json["patches"][0]
    assert (top["x_l0"], top["y_l0"], top["value"]) == (128, 64, pytest.approx(0.9))
    outlines = viewer.get(f"/slides/{one['id']}/layers/predicted").json["features"]
    assert len(outlines) == 1
    xs, ys = zip(*outlines[0]["geometry"]["coordinates"][0], strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == (128, 256, 64, 128)  # 0.1 lies below the threshold


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        open_target(ViewConfig(target=str(tmp_path / "none")))
    with pytest.raises(UsageError, match="--slides"):
        open_target(ViewConfig(target=str(tmp_path), slides=str(tmp_path / "none")))


def test_without_a_name_the_newest_run_is_looked_at_then_features_then_slides(
    tmp_path, monkeypatch, write_features
):
    monkeypatch.chdir(tmp_path)
    assert open_target(ViewConfig()).kind == "folder"
    write_features(tmp_path / "features", "s1", PLACES, np.eye(3))
    assert open_target(ViewConfig()).kind == "features"
    make_run(tmp_path / "runs" / "r", tmp_path / "m.csv", tmp_path / "features")
    assert open_target(ViewConfig()).kind == "run"
