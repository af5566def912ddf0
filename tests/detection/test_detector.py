"""Detectors as a whole: trained on generated nuclei, kept, read again, and used on a slide."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app
from wsi_vmamba.config.train_detector import TrainDetectorConfig
from wsi_vmamba.datasets.synthetic.nucleus_pictures import paint_nuclei
from wsi_vmamba.detection import job
from wsi_vmamba.detection.average_precision import PrecisionCounter
from wsi_vmamba.detection.coco import read_coco
from wsi_vmamba.detection.examples import example_of, turned_boxes
from wsi_vmamba.detection.loop import DetectorEpoch
from wsi_vmamba.detection.painted import objects_of, write_painted
from wsi_vmamba.errors import ConfigError, MissingDataError, TrainingError, UsageError, WeightsError
from wsi_vmamba.model.shipped import resolve_weights

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
    assert not (tmp_path / "d").exists()


class FakeLoop:
    """Three epochs of made-up numbers, for what surrounds a training; stops where it is told."""

    stops_after = 3

    def __init__(self, detector, training, validation, settings, *, device):
        self.history, self._epochs = [], settings.epochs

    @property
    def finished(self):
        return len(self.history) >= self._epochs

    def run_epoch(self):
        if len(self.history) >= FakeLoop.stops_after:
            raise KeyboardInterrupt
        epoch = len(self.history) + 1
        numbers = dict.fromkeys(("train_loss", "box_ap50", "mask_ap50", "box_ap", "mask_ap"), epoch / 10)
        self.history.append(DetectorEpoch(epoch=epoch, learning_rate=1.0, **numbers, is_best=epoch != 3))
        return self.history[-1]

    def state(self):
        return {"history": [asdict(one) for one in self.history]}

    def restore(self, state):
        self.history = [DetectorEpoch(**row) for row in state["history"]]


@pytest.fixture
def fake_job(tmp_path, monkeypatch):
    """A job of nuclei on disk with a loop that computes nothing."""
    write_painted(tmp_path / "nuclei", training=1, validation=1, side_px=64, seed=0)
    monkeypatch.setattr(job, "DetectorLoop", FakeLoop)
    monkeypatch.setattr(FakeLoop, "stops_after", 3)

    def make(**settings):
        config = TrainDetectorConfig(data=str(tmp_path / "nuclei"), out=str(tmp_path / "out"), **settings)
        training, validation = job._given(config)
        return job.DetectionJob(
            config=config, model=SimpleNamespace(packed=lambda: b"model"), note="random", device="cpu",
            training=training, validation=validation,
        )  # fmt: skip

    return make


def test_an_interrupted_training_has_its_record_and_goes_on(tmp_path, fake_job, monkeypatch):
    def record():
        return json.loads((tmp_path / "out" / "train-detector.run.json").read_text())

    monkeypatch.setattr(FakeLoop, "stops_after", 2)
    with pytest.raises(KeyboardInterrupt):
        fake_job(epochs=3).fit()
    assert record()["config"]["epochs"] == 3
    assert record()["classes"] == ["lymphocyte", "epithelial", "spindle"]
    assert "best" not in record()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"model"
    monkeypatch.setattr(FakeLoop, "stops_after", 3)
    started = []
    history = fake_job(epochs=3, resume=True).fit(on_start=started.append)
    assert started == [2]
    assert [one.epoch for one in history] == [1, 2, 3]
    assert record()["best"]["mask_ap50"] == 0.2
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 4


def test_a_training_goes_on_with_its_own_settings_and_data_only(tmp_path, fake_job):
    fake_job(epochs=1).fit()
    before = (tmp_path / "out" / "train-detector.run.json").read_bytes()
    with pytest.raises(TrainingError, match=r"another training \(epochs: 1 in the checkpoint, 2 asked"):
        fake_job(epochs=2, resume=True).fit()
    (tmp_path / "nuclei" / "train" / "00000.png").write_bytes(b"another")
    with pytest.raises(TrainingError, match=r"another training \(training data: "):
        fake_job(epochs=1, resume=True).fit()
    assert (tmp_path / "out" / "train-detector.run.json").read_bytes() == before
    with pytest.raises(UsageError, match=r"model\.safetensors is there already; .* go on with --resume"):
        wv.train_detector(tmp_path / "nuclei", out=tmp_path / "out")


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"train-detector: sides_px is the shorter and the longer side, .* got \[1333, 800\]",
    ):
        wv.train_detector("painted", sides_px=[1333, 800])
    with pytest.raises(ConfigError, match="resume and overwrite exclude each other"):
        wv.train_detector("painted", resume=True, overwrite=True)
    with pytest.raises(
        UsageError, match="a detector takes the four maps of a VMamba, and null is none; take a vmamba_"
    ):
        wv.train_detector("painted", backbone="null")
    with pytest.raises(
        WeightsError, match=r"no detector at .*; give the folder, .* that `wsi-vmamba train-detector` wrote"
    ):
        wv.load_detector(tmp_path)
    shipped = resolve_weights("vmamba_pico", "auto").path
    with pytest.raises(WeightsError, match=r"is weights of vmamba_pico, not a detector"):
        wv.load_detector(shipped)
    require_torchvision()
    with pytest.raises(MissingDataError, match=r"no file .*train\.json"):
        wv.train_detector(tmp_path, out=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_few_steps_find_nuclei(tmp_path, monkeypatch):
    """24 steps from the shipped weights; then the same detector from its file, on a slide larger than its window."""
    require_torchvision()
    monkeypatch.chdir(tmp_path)
    write_painted(tmp_path / "nuclei", training=16, validation=3, side_px=128, seed=0)
    options = ["--epochs", "3", "--width", "32", "--learning-rate", "0.002", "--set", "falls=[2]"]
    done = CliRunner().invoke(app, ["train-detector", "nuclei", *options])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "detector" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    # By chance the figure is 0; three kinds, 0.5 overlap of masks.
    assert float(rows[-1]["mask_ap50"]) > 0.35
    again = CliRunner().invoke(app, ["train-detector", "nuclei", *options])
    assert isinstance(again.exception, UsageError)
    assert "is there already" in str(again.exception)

    painted = paint_nuclei(9, 0, side_px=300)
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite("slide.tif", painted.image, tile=(64, 64), photometric="rgb", **resolution)
    options = ["--window-px", "192", "--segmenter", "all", "--least-score", "0.3"]
    found = CliRunner().invoke(app, ["detect", "detector", "slide.tif", *options])
    assert found.exit_code == 0, found.output
    features = json.loads((tmp_path / "detections" / "slide.geojson").read_text())["features"]
    known = objects_of(painted)
    assert 0.5 * len(known) < len(features) < 1.5 * len(known)
    counts = next(csv.DictReader((tmp_path / "detections" / "detections.csv").read_text().splitlines()))
    assert int(counts["objects"]) == len(features)
    assert counts["windows"] == "4"  # two of 192 px along 300

    detector = wv.load_detector("detector")
    settings = {"overlap_px": 64, "least_score": 0.3}
    merged = detector.picture(painted.image, window_px=192, **settings)
    assert len(merged) == len(features)
    counter = PrecisionCounter()
    counter.add(merged, known)
    whole = PrecisionCounter()
    whole.add(detector.picture(painted.image, window_px=512, **settings), known)
    # Windows lose nothing worth speaking of against the picture seen at once.
    assert counter.at(0.5).mean > 0.9 * whole.at(0.5).mean > 0.25


@pytest.mark.slow
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
    file = tmp_path / "plain" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        wv.load_detector(file)


KILLED = """
import os, signal, sys
from wsi_vmamba.detection import loop

run_epoch = loop.DetectorLoop.run_epoch

def run(self):
    if len(self.history) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_epoch(self)

loop.DetectorLoop.run_epoch = run
import wsi_vmamba as wv
wv.train_detector(sys.argv[1], out=sys.argv[2], epochs=2, width=16, drop_path=0.2, device="cpu")
"""


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed_to_the_byte(tmp_path):
    require_torchvision()
    write_painted(tmp_path / "nuclei", training=3, validation=1, side_px=64, seed=0)
    settings = {"epochs": 2, "width": 16, "drop_path": 0.2, "device": "cpu"}
    wv.train_detector(tmp_path / "nuclei", out=tmp_path / "whole", **settings)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "nuclei"), str(tmp_path / "parts")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len((tmp_path / "parts" / "metrics.csv").read_text().splitlines()) == 2
    resumed = wv.train_detector(tmp_path / "nuclei", out=tmp_path / "parts", resume=True, **settings)
    assert len(resumed.history) == 2
    for name in ("model.safetensors", "metrics.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
