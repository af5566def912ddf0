"""train-segmenter and segment as a user meets them: outlines in, outlines and label images out, judged."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

import wsi_vmamba as wv
from wsi_vmamba.config.segment import SegmentConfig
from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
from wsi_vmamba.device import resolve_device
from wsi_vmamba.errors import (
    DatasetError,
    IncompatibleStoreError,
    MissingDataError,
    StoreError,
    TrainingError,
    UsageError,
    WeightsError,
)
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.pipelines import segment, train_segmenter
from wsi_vmamba.segmentation.annotated import find_annotated
from wsi_vmamba.segmentation.maps import kind_of_maps, resolve_precision
from wsi_vmamba.segmentation.model import read_segmenter
from wsi_vmamba.segmentation.run import SegmentRun

DARK = (256, 128, 448, 320)
FILES = ("model.safetensors", "metrics.csv")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_dark, write_outlines) -> Path:
    """Six slides: four with a dark square that is outlined, two without anything."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["slide_id,path,annotation,label,split"]
    for number, split in enumerate(("train", "train", "validation", "validation", "test", "test")):
        name, tumour = f"s{number}", number not in (1, 5)
        write_dark(folder / f"{name}.tif", seed=number, dark=DARK if tumour else None)
        if tumour:
            write_outlines(folder / f"{name}.geojson", (DARK, "Tumor"))
        rows.append(f"{name},{name}.tif,{name + '.geojson' if tumour else ''},{int(tumour)},{split}")
    (folder / "slides.csv").write_text("\n".join([*rows, ""]))
    return folder


def training(cohort: Path, out: Path, **changes: object) -> TrainSegmenterConfig:
    values = {"data": str(cohort / "slides.csv"), "out": str(out), "epochs": 2, "crops": 16, "batch": 4,
              "crop_px": 128, "channels": 16, "validation_crops": 2, "learning_rate": 0.01,
              "warmup_epochs": 0}  # fmt: skip
    return TrainSegmenterConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def segmenter(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "segmenter"
    assert train_segmenter.run(training(cohort, out))
    return out


def test_slides_are_segmented_judged_and_not_segmented_again(cohort, segmenter, tmp_path, capsys):
    out = tmp_path / "masks"
    config = SegmentConfig(
        model=str(segmenter), slides=str(cohort / "slides.csv"), out=str(out), split="test"
    )
    assert segment.run(config)
    said = capsys.readouterr().out
    assert "2 slides with their truth" in said
    record = json.loads((out / "segment.run.json").read_text())
    assert record["device"] == resolve_device("auto")
    assert record["precision"] == resolve_precision("auto", device=record["device"])
    assert record["maps"] == kind_of_maps(record["device"])
    scores = json.loads((out / "scores.json").read_text())
    assert scores["mean_dice"] > 0.8
    assert scores["trained_on"] == []
    assert scores["n_slides"] == 2
    numbers = tifffile.imread(out / "s4.ome.tif")
    left, top, right, bottom = DARK
    expected = np.zeros((512, 640), np.uint8)
    expected[top:bottom, left:right] = 1
    assert numbers.shape == expected.shape
    assert (numbers == expected).mean() > 0.96
    features = json.loads((out / "s4.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"tumour"}
    with (out / "scores.csv").open() as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == ["s4", "s5"]
    before = (out / "s4.ome.tif").stat().st_mtime_ns
    found = wv.segment(segmenter, cohort / "slides.csv", out=out, split="test")
    assert [row.outcome for row in found] == ["already done"] * 2
    assert found.scores is not None
    assert found.scores.mean_dice == scores["mean_dice"]
    assert (out / "s4.ome.tif").stat().st_mtime_ns == before
    # What was made is a truth like another one: it is read back and is equal to itself.
    again = wv.segment(segmenter, cohort / "s4.tif", out=out, annotations=out_as_truth(out, tmp_path))
    assert again.scores is not None
    assert again.scores.mean_dice == 1


def out_as_truth(out: Path, tmp_path: Path) -> Path:
    """A folder with the label image alone."""
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "s4.ome.tif").write_bytes((out / "s4.ome.tif").read_bytes())
    return tmp_path / "truth"


def test_slides_of_the_training_are_named_when_they_are_judged(cohort, segmenter, tmp_path, capsys):
    config = SegmentConfig(
        model=str(segmenter), slides=str(cohort / "slides.csv"), out=str(tmp_path / "m"), split="validation"
    )
    assert segment.run(config)
    assert "2 of these slides (s2, s3) were trained on" in " ".join(capsys.readouterr().err.split())


KILLED = """
import json, os, signal, sys
from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
from wsi_vmamba.pipelines import train_segmenter
from wsi_vmamba.segmentation.loop import SegmentationLoop

run_epoch = SegmentationLoop.run_epoch

def run(self):
    if len(self.history) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_epoch(self)

SegmentationLoop.run_epoch = run
train_segmenter.run(TrainSegmenterConfig(**json.loads(sys.argv[1])))
"""


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(cohort, tmp_path):
    changes = {
        "train_backbone": True,
        "drop_path": 0.2,
        "epochs": 2,
        "crops": 4,
        "batch": 2,
        "crop_px": 64,
        "validation_crops": 1,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_segmenter.run(training(cohort, whole, **changes))
    asked = training(cohort, parts, **changes).model_dump_json()
    done = subprocess.run([sys.executable, "-c", KILLED, asked], check=False)
    assert done.returncode == -signal.SIGKILL
    record = parts / "train-segmenter.run.json"
    before = record.read_bytes()
    assert "best" not in json.loads(before)
    with pytest.raises(
        TrainingError, match=r"another training \(learning_rate: 0.01 in the checkpoint, 0.1 asked"
    ):
        train_segmenter.run(training(cohort, parts, **changes, resume=True, learning_rate=0.1))
    with pytest.raises(TrainingError, match=r"another training \(mask: None in the checkpoint, "):
        train_segmenter.run(
            training(cohort, parts, **changes, resume=True, mask=str(write_masks(cohort, tmp_path)))
        )
    assert record.read_bytes() == before
    assert train_segmenter.run(training(cohort, parts, **changes, resume=True))
    for name in FILES:
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads(record.read_text())["best"]["epoch"] in (1, 2)
    started = resolve_weights("vmamba_pico", "auto").path
    assert started is not None
    trained = read_segmenter(whole).backbone.state_dict()
    fresh = wv_backbone(started)
    assert any(not torch.equal(trained[name], value) for name, value in fresh.items())


def write_masks(cohort: Path, folder: Path) -> Path:
    """Tissue masks of a cohort: all of each slide."""
    (folder / "tissue").mkdir()
    for slide in cohort.glob("*.tif"):
        cv2.imwrite(str(folder / "tissue" / f"{slide.stem}.png"), np.full((128, 160), 255, np.uint8))
    return folder / "tissue"


def wv_backbone(path: Path) -> dict[str, torch.Tensor]:
    from wsi_vmamba.model.weights import read_state

    return {name: value for name, value in read_state(path).items() if name.startswith("layers.3")}


def test_pictures_with_label_masks_are_learned(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            labels = np.full((72, 96), 1, np.uint8)
            labels[:, 96 * (number + 1) // 6 :] = 2
            labels[:8] = 0
            picture = np.clip(rng.normal(np.array([0, 60, 190])[labels][..., None], 10, (72, 96, 3)), 0, 255)
            for kind, content, suffix in (("images", picture, "jpg"), ("annotations", labels, "png")):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / kind / split / f"{number}.{suffix}"), content.astype(np.uint8))
    out = tmp_path / "segmenter"
    found = wv.train_segmenter(
        tmp_path, out=out, outside="unknown", augment="photograph", epochs=2, crops=16, batch=4, crop_px=64,
        channels=16, learning_rate=5e-3,
    )  # fmt: skip
    assert found.classes == ("class 1", "class 2")
    assert found.target_mpp is None
    assert found.best.mean_dice > 0.9
    dark, bright = (found.picture(np.full((70, 50, 3), value, np.uint8)) for value in (60, 190))
    assert dark.shape == (70, 50)
    assert (dark == 1).mean() > 0.9
    assert (bright == 2).mean() > 0.9
    with pytest.raises(UsageError, match="trained on pictures without a scale"):
        wv.segment(out, tmp_path / "images")


def test_what_cannot_be_trained_is_refused(cohort, segmenter, tmp_path, write_outlines):
    with pytest.raises(UsageError, match=r"model\.safetensors is there already; replace it with --overwrite"):
        train_segmenter.run(training(cohort, segmenter))
    with pytest.raises(UsageError, match="takes the four maps of a VMamba, and null is none"):
        train_segmenter.run(training(cohort, tmp_path / "a", backbone="null"))
    with pytest.raises(MissingDataError, match=r"6 of 6 slides have no outlines and no label mask \(s0, s1"):
        train_segmenter.run(training(cohort, tmp_path / "a", data=str(cohort), annotations=str(tmp_path)))
    with pytest.raises(UsageError, match=r"no folder .*nowhere; expected one with <slide_id>\.geojson"):
        train_segmenter.run(training(cohort, tmp_path / "a", annotations=str(tmp_path / "nowhere")))
    with pytest.raises(
        DatasetError, match="the training slides need all classes, and none of these 2 shows fat"
    ):
        train_segmenter.run(training(cohort, tmp_path / "a", classes=["tumour", "fat"]))


def test_outlines_may_lie_beside_slides_and_a_slide_that_was_forgotten_is_named(cohort, tmp_path):
    found = find_annotated(str(cohort / "slides.csv"), annotations=cohort)
    assert [one.annotation and one.annotation.name for one in found] == [
        "s0.geojson", None, "s2.geojson", "s3.geojson", "s4.geojson", None,
    ]  # fmt: skip
    assert [one.is_known for one in found] == [True] * 6
    empty = tmp_path / "empty.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    rows = (
        (cohort / "slides.csv")
        .read_text()
        .replace(",s", f",{cohort}/s")
        .replace(f"{cohort}/s0.geojson", str(empty))
    )
    (tmp_path / "slides.csv").write_text(rows.replace(f",{cohort}/split", ",split"))
    with pytest.raises(DatasetError, match=r"1 slides have another label than 0 and nothing .* \(s0\)"):
        train_segmenter.run(training(tmp_path, tmp_path / "a", classes=["tumour"]))


def test_what_is_no_segmenter_is_refused_and_two_are_not_mixed(cohort, segmenter, tmp_path):
    shipped = resolve_weights("vmamba_pico", "auto").path
    slide = str(cohort / "s5.tif")
    with pytest.raises(WeightsError, match=r"not a segmenter; give the folder"):
        segment.run(SegmentConfig(model=str(shipped), slides=slide))
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"is no segmenter .* no header"):
        segment.run(SegmentConfig(model=str(tmp_path / "junk"), slides=slide))
    with pytest.raises(WeightsError, match="no segmenter at"):
        segment.run(SegmentConfig(model=str(tmp_path), slides=slide))
    with pytest.raises(MissingDataError, match="has no outlines or label masks of any of these 1 slides"):
        segment.run(SegmentConfig(model=str(segmenter), slides=slide, annotations=str(tmp_path)))
    out = tmp_path / "out"
    out.mkdir()
    (out / "segment.run.json").write_text(json.dumps({"made_by": {"model": "another"}}))
    with pytest.raises(IncompatibleStoreError, match="holds what another segmenter made"):
        segment.run(SegmentConfig(model=str(segmenter), slides=slide, out=str(out)))


def test_a_damaged_slide_is_named_and_the_others_go_on(cohort, segmenter, tmp_path, write_dark, capsys):
    write_dark(tmp_path / "slides" / "good.tif")
    (tmp_path / "slides" / "bad.tif").write_bytes(b"II*\0 and nothing more")
    config = SegmentConfig(model=str(segmenter), slides=str(tmp_path / "slides"), out=str(tmp_path / "masks"))
    assert segment.run(config) is False
    said = capsys.readouterr().out
    assert "bad: failed" in said
    assert "good: 1 outlines" in said


@pytest.fixture
def two(tmp_path: Path, write_dark, write_outlines) -> Path:
    """Two slides of 640 x 512 px with a dark square, and what is on them."""
    for name in ("a", "b"):
        write_dark(tmp_path / "two" / f"{name}.tif")
        (tmp_path / "truth").mkdir(exist_ok=True)
        write_outlines(tmp_path / "truth" / f"{name}.geojson", (DARK, "Tumor"))
    return tmp_path / "two"


def test_an_interrupted_overwrite_leaves_nothing_of_the_segmenter_before(cohort, segmenter, two, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    assert train_segmenter.run(training(cohort, other, epochs=1, crops=4, seed=5))
    assert wv.segment(segmenter, two, out=out).ok
    asked = SegmentConfig(model=str(other), slides=str(two), out=str(out), overwrite=True)
    interrupted = SegmentRun(asked).segment()
    assert next(interrupted).slide_id == "a"
    interrupted.close()
    assert (
        json.loads((out / "segment.run.json").read_text())["made_by"]["model"]
        == read_segmenter(other).fingerprint
    )
    assert [row.outcome for row in wv.segment(other, two, out=out)] == ["already done", "done"]
    # Of some slides only, the others would stay as the segmenter before made them.
    with pytest.raises(
        IncompatibleStoreError, match=r"another segmenter made, also 1 slides that .* \(b\) and would stay"
    ):
        wv.segment(segmenter, two / "a.tif", out=out, overwrite=True)
    assert wv.segment(other, two / "a.tif", out=out, overwrite=True).ok


def test_settings_that_decide_are_not_mixed(segmenter, two, tmp_path):
    out, slide = tmp_path / "out", two / "a.tif"
    assert wv.segment(segmenter, slide, out=out, precision="fp32", min_area_um2=500.0).ok
    same = {"out": out, "precision": "fp32", "min_area_um2": 500.0}
    for changes, differ in (
        ({"min_area_um2": 900.0}, r"min_area_um2: 500\.0 there, 900\.0 asked"),
        ({"precision": "bf16"}, "precision: fp32 there, bf16 asked"),
        ({"mpp_override": 0.5}, r"mpp_override: None there, 0\.5 asked"),
        ({"mask": str(two)}, f"mask: None there, {two} asked"),
        ({"segmenter": "all"}, "segmenter: otsu there, all asked"),
        ({"merge_um": 90.0}, r"merge_um: 150\.0 there, 90\.0 asked"),
        (
            {"region_px": 512, "min_area_um2": 0},
            r"region_px: \d+ there, 512 asked; min_area_um2: 500\.0 there, 0\.0",
        ),
    ):
        with pytest.raises(
            IncompatibleStoreError, match=rf"holds what other settings \({differ}.*--overwrite"
        ):
            wv.segment(segmenter, slide, **{**same, **changes})
    again = wv.segment(segmenter, slide, **same, memory_limit_gb=50.0, bootstrap=100, seed=3, device="cpu")
    assert [row.outcome for row in again] == ["already done"]
    assert [row.outcome for row in wv.segment(segmenter, slide, out=out, overwrite=True)] == ["done"]
    (out / "segment.run.json").write_text("[]")
    with pytest.raises(
        StoreError, match=r"segment\.run\.json cannot be read \(it is no record\); choose another"
    ):
        wv.segment(segmenter, slide, out=out)


def test_annotations_are_never_replaced_by_what_is_found(segmenter, two, tmp_path):
    truth = tmp_path / "truth"
    before = (truth / "a.geojson").read_bytes()
    with pytest.raises(
        UsageError, match=r"a\.geojson says what is on a, and would be replaced by what is found"
    ):
        wv.segment(segmenter, two, out=truth, annotations=truth, overwrite=True)
    assert (truth / "a.geojson").read_bytes() == before


def test_when_all_annotated_slides_fail_the_failures_are_told_and_nothing_is_judged(
    segmenter, two, tmp_path, capsys
):
    (two / "b.tif").write_bytes(b"II*\0 and nothing more")
    (tmp_path / "truth" / "a.geojson").unlink()
    settings = {"out": str(tmp_path / "out"), "annotations": str(tmp_path / "truth")}
    assert segment.run(SegmentConfig(model=str(segmenter), slides=str(two), **settings)) is False
    said = capsys.readouterr()
    assert "Slides without a segmentation" in said.out
    assert "so nothing is judged" in " ".join(said.err.split())
    found = wv.segment(segmenter, two, **settings)
    assert [(row.slide_id, row.outcome) for row in found] == [("a", "already done"), ("b", "failed")]
    assert found.scores is None
    assert not found.ok


def test_failures_are_told_before_the_scores(segmenter, two, tmp_path, capsys):
    (two / "b.tif").write_bytes(b"II*\0 and nothing more")
    settings = {"out": str(tmp_path / "out"), "annotations": str(tmp_path / "truth")}
    assert segment.run(SegmentConfig(model=str(segmenter), slides=str(two), **settings)) is False
    said = capsys.readouterr().out
    assert 0 < said.index("Slides without a segmentation") < said.index("1 slides with their truth")
