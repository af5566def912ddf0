"""`detect` over folders of slides, with a stand-in for the detector: what is kept, refused and told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile

import wsi_vmamba as wv
from wsi_vmamba.config.detect import DetectConfig
from wsi_vmamba.detection import run as detection_run
from wsi_vmamba.detection.large import SlideObjects
from wsi_vmamba.detection.model import DetectorSpec
from wsi_vmamba.detection.objects import Cut, make_objects
from wsi_vmamba.errors import ConfigError, IncompatibleStoreError, MemoryLimitError, StoreError, UsageError
from wsi_vmamba.pipelines import detect

SPEC = {
    "backbone": "vmamba_pico", "classes": ("a", "b"), "width": 16, "smallest_px": 8, "sides_px": None,
    "most_objects": 9,
}  # fmt: skip


class Finder:
    """Finds one object of class b in every slide, unless told to fail; remembers where it looked."""

    def __init__(self):
        self.seen, self.fails, self.tissue = [], {}, {}

    def __call__(self, detector, slide, tissue, **_):
        name = Path(slide.path).stem
        self.seen.append(name)
        self.tissue[name] = tissue.mask
        if name in self.fails:
            raise self.fails[name]
        cut = Cut(x_px=1, y_px=2, mask=np.ones((4, 3), dtype=np.bool_))
        objects = make_objects([(1, 2, 4, 6)], [1], [cut], scores=[0.9])
        return SlideObjects(objects=objects, l0_per_px=1.0, n_windows=1, n_full=0)


@pytest.fixture
def finder(monkeypatch):
    found = Finder()
    monkeypatch.setattr(detection_run, "find_in_slide", found)
    found.model = SimpleNamespace(spec=DetectorSpec(**SPEC, target_mpp=0.5), fingerprint="one")
    monkeypatch.setattr(detection_run, "read_detector", lambda *_, **__: found.model)
    return found


def add_slide(tmp_path, name, *, mpp=0.5):
    (tmp_path / "slides").mkdir(exist_ok=True)
    per_cm = round(10_000 / mpp)
    tifffile.imwrite(
        tmp_path / "slides" / f"{name}.tif", np.full((128, 128, 3), 99, dtype=np.uint8), tile=(64, 64),
        photometric="rgb", resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
    )  # fmt: skip


def run(tmp_path, **settings):
    chosen = {"slides": str(tmp_path / "slides"), "segmenter": "all", "device": "cpu", **settings}
    return detect.run(DetectConfig(model=str(tmp_path), out=str(tmp_path / "out"), **chosen))


def rows(tmp_path):
    table = csv.DictReader((tmp_path / "out" / "detections.csv").read_text().splitlines())
    return {row["slide_id"]: (row["windows"], row["objects"], row["a"], row["b"]) for row in table}


def test_the_table_keeps_the_slides_of_earlier_calls(tmp_path, finder):
    add_slide(tmp_path, "x")
    assert run(tmp_path)
    add_slide(tmp_path, "y")
    assert run(tmp_path)
    assert finder.seen == ["x", "y"]
    assert rows(tmp_path) == {"x": ("1", "1", "0", "1"), "y": ("1", "1", "0", "1")}
    # Done again, a slide keeps one row; so does a slide whose GeoJSON went.
    assert run(tmp_path, overwrite=True, slides=str(tmp_path / "slides" / "x.tif"))
    (tmp_path / "out" / "y.geojson").unlink()
    assert run(tmp_path)
    assert finder.seen == ["x", "y", "x", "y"]
    assert list(rows(tmp_path)) == ["x", "y"]


def test_a_run_that_is_killed_leaves_the_rows_of_finished_slides_and_its_record(tmp_path, finder):
    add_slide(tmp_path, "x")
    add_slide(tmp_path, "y")
    finder.fails = {"y": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(rows(tmp_path)) == ["x"]
    assert json.loads((tmp_path / "out" / "detect.run.json").read_text())["made_by"]["window_px"] == 256
    finder.fails = {}
    assert run(tmp_path)
    assert finder.seen == ["x", "y", "y"]
    assert list(rows(tmp_path)) == ["x", "y"]


@pytest.mark.parametrize(
    ("other", "differ"),
    [
        ({"least_score": 0.4}, r"least_score: 0\.5 there, 0\.4 asked"),
        ({"window_px": 128}, "window_px: 256 there, 128 asked"),
        ({"overlap_px": 32}, "overlap_px: 64 there, 32 asked"),
        ({"segmenter": "otsu"}, "segmenter: all there, otsu asked"),
        ({"mask": "masks"}, "mask: None there, masks asked"),
        ({"mpp_override": 0.4}, r"mpp_override: None there, 0\.4 asked"),
        ({}, "another detector"),
    ],
)
def test_another_detector_or_other_settings_are_refused_in_the_same_folder(other, differ, tmp_path, finder):
    if "mask" in other:
        other = {"mask": str(write_masks(tmp_path, "x", "y"))}
        differ = "mask: None there, .* asked"
    for name in "xy":
        add_slide(tmp_path, name)
    assert run(tmp_path)
    if not other:
        finder.model.fingerprint = "two"
    with pytest.raises(IncompatibleStoreError, match=rf"holds what .*{differ}.* --overwrite"):
        run(tmp_path, **other)
    assert finder.seen == ["x", "y"]
    # The other slides would stay as the other detector made them.
    one = str(tmp_path / "slides" / "x.tif")
    with pytest.raises(IncompatibleStoreError, match=r"also 1 slides that .* \(y\) and would stay"):
        run(tmp_path, overwrite=True, slides=one, **other)
    # Where the replacement of a slide fails, nothing of it is left that could be taken for the new detector's.
    finder.fails = {"x": MemoryLimitError("too large")}
    assert not run(tmp_path, overwrite=True, **other)
    assert not (tmp_path / "out" / "x.geojson").exists()
    assert list(rows(tmp_path)) == ["y"]
    finder.fails = {}
    assert run(tmp_path, **other)
    assert list(rows(tmp_path)) == ["y", "x"]
    assert finder.seen == ["x", "y", "x", "y", "x"]


def test_tissue_is_that_of_masks_where_they_are_given(tmp_path, finder):
    add_slide(tmp_path, "x")
    assert run(tmp_path, mask=str(write_masks(tmp_path, "x")))
    seen = finder.tissue["x"]
    expected = np.zeros(seen.shape, dtype=bool)
    expected[:, : seen.shape[1] // 2] = True
    np.testing.assert_array_equal(seen, expected)
    add_slide(tmp_path, "y")
    assert not run(tmp_path, mask=str(tmp_path / "masks"))
    assert list(rows(tmp_path)) == ["x"]


def write_masks(tmp_path, *names):
    """Tissue on the left half of each slide."""
    (tmp_path / "masks").mkdir()
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    for name in names:
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), mask)
    return tmp_path / "masks"


def test_what_something_else_made_is_refused(tmp_path, finder):
    add_slide(tmp_path, "x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.geojson").write_text("{}")
    with pytest.raises(
        IncompatibleStoreError, match=r"something else \(x\.geojson has no detect\.run\.json beside it\) made"
    ):
        run(tmp_path)
    assert run(tmp_path, overwrite=True)
    record = tmp_path / "out" / "detect.run.json"
    made = record.read_text()
    record.write_text('{"command": "detect"}')
    with pytest.raises(IncompatibleStoreError, match="holds what another detector"):
        run(tmp_path)
    record.write_text("{")
    with pytest.raises(StoreError, match=r"detect\.run\.json cannot be read .* --overwrite"):
        run(tmp_path)
    record.write_text(made)
    assert run(tmp_path)
    add_slide(tmp_path, "y")
    (tmp_path / "out" / "y.geojson").write_text("{}")
    with pytest.raises(IncompatibleStoreError, match=r"y\.geojson is there, but not in detections\.csv"):
        run(tmp_path)
    assert run(tmp_path, overwrite=True)
    (tmp_path / "out" / "detections.csv").write_text("slide_id\nx\n")
    with pytest.raises(
        StoreError, match=r"detections\.csv was changed: expected the columns slide_id, windows"
    ):
        run(tmp_path)


def test_python_gives_what_the_command_writes(tmp_path, finder):
    add_slide(tmp_path, "x")
    add_slide(tmp_path, "y", mpp=4.0)
    found = wv.detect(tmp_path, tmp_path / "slides", out=tmp_path / "out", segmenter="all", device="cpu")
    assert [(row.slide_id, row.outcome, row.counts) for row in found] == [
        ("x", "done", {"a": 0, "b": 1}), ("y", "failed", {}),
    ]  # fmt: skip
    assert (len(found), found.ok, found.folder) == (2, False, tmp_path / "out")
    assert found.rows[0].objects == 1
    features = json.loads(found.rows[0].outlines.read_text())["features"]
    assert [one["properties"]["classification"]["name"] for one in features] == ["b"]
    assert "train one on pictures as coarse" in found.rows[1].detail
    again = wv.detect(tmp_path, tmp_path / "slides", out=tmp_path / "out", segmenter="all", device="cpu")
    assert [row.outcome for row in again] == ["already done", "failed"]
    assert "already done" in again._repr_html_()
    with pytest.raises(ConfigError, match="least_scores"):
        wv.detect(tmp_path, tmp_path / "slides", least_scores=0.5)


def test_what_ends_a_slide_does_not_end_the_others(tmp_path, finder, capsys):
    add_slide(tmp_path, "coarse", mpp=4.0)
    for name in ("large", "unwritable", "well"):
        add_slide(tmp_path, name)
    finder.fails = {"large": MemoryLimitError("does not fit"), "unwritable": StoreError("no space left")}
    assert not run(tmp_path)
    shown = capsys.readouterr().out
    assert "coarse: failed (the slide has 4 um per pixel, the target is 0.5" in shown
    assert "train one on pictures as coarse" in shown
    assert "large: failed (does not fit)" in shown
    assert "unwritable: failed (no space left)" in shown
    assert finder.seen == ["large", "unwritable", "well"]
    assert list(rows(tmp_path)) == ["well"]


def test_a_slide_of_a_manifest_that_is_not_there_is_named_with_its_line(tmp_path, finder, capsys):
    add_slide(tmp_path, "x")
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,path\ngone,slides/gone.tif\nx,slides/x.tif\n")
    assert not run(tmp_path, slides=str(table))
    assert "slides.csv, line 2" in capsys.readouterr().out
    assert list(rows(tmp_path)) == ["x"]


def test_a_detector_of_photographs_is_refused_before_anything_is_written(tmp_path, finder):
    add_slide(tmp_path, "x")
    finder.model.spec = DetectorSpec(**SPEC, target_mpp=None)
    with pytest.raises(UsageError, match=r"target_mpp null.*train it with target_mpp"):
        run(tmp_path)
    assert finder.seen == []
    assert not (tmp_path / "out").exists()
