"""Detectors as a whole: trained on generated nuclei, kept, read again, and used on a slide."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app
from wsi_vmamba.config.detector import DetectorConfig
from wsi_vmamba.datasets.synthetic.nucleus_pictures import paint_nuclei
from wsi_vmamba.detection import front
from wsi_vmamba.detection.average_precision import PrecisionCounter
from wsi_vmamba.detection.coco import read_coco
from wsi_vmamba.detection.examples import example_of, turned_boxes
from wsi_vmamba.detection.large import find_in_picture
from wsi_vmamba.detection.model import Detector, DetectorSpec
from wsi_vmamba.detection.painted import objects_of, write_painted
from wsi_vmamba.detection.train import DetectorEpoch
from wsi_vmamba.errors import ConfigError, MissingDataError, UsageError, WeightsError

WHY = "torchvision is not installed, or not for this torch: pip install 'wsi-vmamba[detection]'"


def require_torchvision():
    # Built for another torch, importing it ends in a RuntimeError.
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, AttributeError):
        pytest.skip(WHY)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_boxes_are_turned_with_their_masks(quarters, mirrored):
    painted = paint_nuclei(3, 0, side_px=96)
    cropped = painted.image[:64], painted.owner[:64]  # an oblong picture, whose sides a turn exchanges
    kinds = painted.kinds
    known = objects_of(replace(painted, image=cropped[0], owner=cropped[1]))
    seen = known.take(np.array([cut.mask.any() for cut in known.cuts]))
    image, target = example_of(cropped[0], seen, quarters=quarters, mirrored=mirrored)
    assert image.shape == ((3, 64, 96) if quarters % 2 == 0 else (3, 96, 64))
    for box, mask in zip(target["boxes"], target["masks"], strict=True):
        rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0] for axis in (1, 0))
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert target["labels"].min() >= 1
    assert len(target["labels"]) == len(seen) <= len(kinds)
    back = turned_boxes(seen.boxes, quarters=quarters, width_px=96, height_px=64)
    sides = (96, 64) if quarters % 2 == 0 else (64, 96)
    again = turned_boxes(back, quarters=-quarters, width_px=sides[0], height_px=sides[1])
    np.testing.assert_array_equal(again, seen.boxes)


def test_crowds_are_not_learned_from():
    painted = paint_nuclei(3, 0, side_px=96)
    known = objects_of(painted)
    marked = type(known)(**{**vars(known), "crowd": np.arange(len(known)) == 0})
    _, target = example_of(painted.image, marked, quarters=0, mirrored=False)
    assert len(target["boxes"]) == len(known) - 1


def test_without_torchvision_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        UsageError, match=r"torchvision's, which cannot be imported .*wsi-vmamba\[detection\]"
    ):
        wv.train_detector("painted", out=tmp_path / "d", painted_pictures=1)


def test_a_backbone_that_is_no_vmamba_is_refused_with_those_that_are():
    spec = {"classes": ("a",), "width": 16, "smallest_px": 8, "sides_px": None, "most_objects": 9, "mpp": 0.5}
    with pytest.raises(
        UsageError, match=r"VMamba, and null is none; choose from vmamba_base.*vmamba_tiny_s1l8"
    ):
        Detector(DetectorSpec(backbone="null", **spec), seed=0)


def test_an_interrupted_training_has_its_record(tmp_path, monkeypatch):
    write_painted(tmp_path / "nuclei", training=1, validation=1, side_px=64, seed=0)
    data = read_coco(tmp_path / "nuclei" / "train.json", tmp_path / "nuclei" / "train")
    begun = front.Begun(training=data, validation=data, detector=None, weights="random", device="cpu")
    config = DetectorConfig(out=str(tmp_path / "out"), epochs=2)
    report = DetectorEpoch(
        epoch=1,
        learning_rate=1.0,
        train_loss=1.0,
        box_ap50=0.1,
        mask_ap50=0.2,
        box_ap=0.1,
        mask_ap=0.1,
        is_best=True,
    )

    def interrupted(*_, on_epoch, **__):
        on_epoch(report, None)
        raise KeyboardInterrupt

    def record():
        return json.loads((tmp_path / "out" / "detector.run.json").read_text())

    monkeypatch.setattr(front, "save_detector", lambda *_: None)
    monkeypatch.setattr(front, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        front.run_training(begun, config)
    assert record()["config"]["epochs"] == 2
    assert record()["classes"] == list(data.classes)
    assert "best" not in record()
    monkeypatch.setattr(front, "train", lambda *_, on_epoch, **__: on_epoch(report, None))
    front.run_training(begun, config)
    assert record()["best"]["mask_ap50"] == 0.2


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"sides_px is the shorter and the longer side, .* got \[1333, 800\]"
    ):
        wv.train_detector("painted", sides_px=[1333, 800])
    with pytest.raises(
        MissingDataError, match=r"no detector at .*; train one with `wsi-vmamba detector DATA"
    ):
        wv.load_detector(tmp_path)
    require_torchvision()
    with pytest.raises(MissingDataError, match=r"no file .*train\.json"):
        wv.train_detector(tmp_path, out=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("one_thread")
def test_a_few_steps_find_nuclei(tmp_path, monkeypatch):
    """24 steps from the shipped weights; then the same detector from its file, on a slide larger than its window."""
    require_torchvision()
    monkeypatch.chdir(tmp_path)
    write_painted(tmp_path / "nuclei", training=16, validation=3, side_px=128, seed=0)
    options = ["--epochs", "3", "--width", "32", "--learning-rate", "0.002", "--set", "falls=[2]"]
    done = CliRunner().invoke(app, ["detector", "nuclei", *options])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "detector" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    # By chance the figure is 0; three kinds, 0.5 overlap of masks.
    assert float(rows[-1]["mask_ap50"]) > 0.35
    again = CliRunner().invoke(app, ["detector", "nuclei", *options])
    assert isinstance(again.exception, UsageError)
    assert "is there already" in str(again.exception)

    painted = paint_nuclei(9, 0, side_px=300)
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite("slide.tif", painted.image, tile=(64, 64), photometric="rgb", **resolution)
    found = CliRunner().invoke(
        app, ["detect", "slide.tif", "--window-px", "192", "--segmenter", "all", "--least-score", "0.3"]
    )
    assert found.exit_code == 0, found.output
    features = json.loads((tmp_path / "detections" / "slide.geojson").read_text())["features"]
    known = objects_of(painted)
    assert 0.5 * len(known) < len(features) < 1.5 * len(known)
    counts = next(csv.DictReader((tmp_path / "detections" / "detections.csv").read_text().splitlines()))
    assert int(counts["objects"]) == len(features)
    assert counts["windows"] == "9"

    detector = wv.load_detector("detector")
    settings = {"overlap_px": 64, "least_score": 0.3}
    merged = find_in_picture(detector, painted.image, window_px=192, **settings)
    assert len(merged) == len(features)
    counter = PrecisionCounter()
    counter.add(merged, known)
    whole = PrecisionCounter()
    whole.add(find_in_picture(detector, painted.image, window_px=512, **settings), known)
    # Windows lose nothing worth speaking of against the picture seen at once.
    assert counter.at(0.5).mean > 0.9 * whole.at(0.5).mean > 0.25


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_checkpointing_changes_no_loss_and_files_are_checked(tmp_path):
    require_torchvision()
    write_painted(tmp_path / "nuclei", training=2, validation=1, side_px=64, seed=0)
    shared = {"epochs": 1, "width": 16, "drop_path": 0.2, "turns": "none", "device": "cpu"}
    plain, checkpointed = (
        wv.train_detector(
            tmp_path / "nuclei", out=tmp_path / name, checkpointing=name == "checkpointed", **shared
        )
        for name in ("plain", "checkpointed")
    )
    assert plain.history == checkpointed.history
    data = read_coco(tmp_path / "nuclei" / "train.json", tmp_path / "nuclei" / "train")
    assert plain.classes == data.classes
    file = tmp_path / "plain" / "detector.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is no detector of `wsi-vmamba detector`, or damaged"):
        wv.load_detector(file)
    with pytest.raises(UsageError, match="detectors are built over a VMamba, and null is none"):
        wv.train_detector(tmp_path / "nuclei", out=tmp_path / "none", backbone="null", weights="random")
