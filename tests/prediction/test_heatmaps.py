"""A lesion painted at known level-0 coordinates lights up there, within a patch, in every format, for every reader."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely

import wsi_vmamba as wv
from wsi_vmamba.errors import MissingDataError, UnknownNameError, UsageError
from wsi_vmamba.prediction.heatmaps import FORMATS
from wsi_vmamba.prediction.slide_prediction import read_prediction
from wsi_vmamba.report.heatmap import colour_of
from wsi_vmamba.slide import READERS

#: Off the grid of 32 px on every side.
LESION = (203, 117, 391, 309)
MPP, PATCH_PX = 0.5, 32
#: The Leica file holds 480 x 320 of the picture at level-0 (64, 32).
OFFSET = (64, 32)


def patches_in(box: tuple[int, ...], prediction: wv.SlidePrediction, *, margin_px: float) -> np.ndarray:
    """Which patches have their middle in a box that is larger by a margin."""
    corners = prediction.boxes_l0
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    low = np.array(box[:2]) - margin_px
    high = np.array(box[2:]) + margin_px
    return ((middle > low) & (middle < high)).all(axis=1)


def check_lesion(prediction: wv.SlidePrediction, box: tuple[int, ...]) -> None:
    """All patches that lie well inside are called, none that lies a patch outside."""
    assert prediction.patch_probability is not None
    inside = patches_in(box, prediction, margin_px=-PATCH_PX / 2)
    outside = ~patches_in(box, prediction, margin_px=PATCH_PX / 2)
    assert inside.sum() >= 9
    assert prediction.patch_probability[inside].min() > 0.5
    assert prediction.patch_probability[outside].max() < 0.5
    assert prediction.attention is not None
    assert prediction.attention.sum() == pytest.approx(1, abs=1e-5)


def test_every_reader_has_its_lesion(lesion_writers):
    """Those of a file of their own here, and OpenSlide by a canvas whose scanned area begins elsewhere."""
    assert {*lesion_writers, "openslide"} == set(READERS)


@pytest.mark.parametrize("reader", ["tiff", "zarr", "deepzoom"])
def test_a_lesion_lights_up_where_it_was_painted(tmp_path, run, lesion_writers, reader, painted):
    slide = lesion_writers[reader](tmp_path, painted.tissue(seed=50, lesion=LESION))
    settings = {"mpp_override": MPP} if reader == "deepzoom" else {}
    prediction = run.predict(slide, **settings)
    assert prediction.reader == reader
    check_lesion(prediction, LESION)
    check_files(prediction, LESION, tmp_path / "maps")


def test_a_lesion_on_a_canvas_whose_scanned_area_begins_elsewhere(tmp_path, run, leica_with_bounds, painted):
    lesion = (203, 87, 391, 259)
    slide = leica_with_bounds(tmp_path, painted.tissue(seed=51, lesion=lesion))
    with openslide.OpenSlide(slide) as opened:
        bounds = (opened.properties["openslide.bounds-x"], opened.properties["openslide.bounds-y"])
    assert bounds == tuple(map(str, OFFSET))
    prediction = run.predict(slide)
    assert prediction.reader == "openslide"
    moved = tuple(side + OFFSET[i % 2] for i, side in enumerate(lesion))
    assert prediction.patch_probability is not None
    # The second area of the glass holds another piece of the picture, turned.
    first = prediction.boxes_l0[:, 2] < 600
    inside = patches_in(moved, prediction, margin_px=-PATCH_PX / 2)
    outside = first & ~patches_in(moved, prediction, margin_px=PATCH_PX / 2)
    scanned = patches_in((64, 32, 544, 352), prediction, margin_px=-PATCH_PX / 2)
    assert prediction.patch_probability[inside].min() > 0.5
    assert prediction.patch_probability[outside & scanned].max() < 0.5
    path = prediction.heatmap(layer="probability").save(tmp_path, format="ometiff")
    assert_picture_says_the_same(path, prediction)


def read_numbers(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def check_files(prediction: wv.SlidePrediction, box: tuple[int, ...], folder: Path) -> None:
    # A figure takes seconds to draw, and all readers' go the same way.
    formats = [name for name in FORMATS if name != "png" or prediction.reader == "tiff"]
    heatmap = prediction.heatmap(layer="probability")
    files = {name: heatmap.save(folder, format=name) for name in formats}
    assert_picture_says_the_same(files["ometiff"], prediction)
    rows = read_numbers(files["csv"])
    table = prediction.patch_table
    for column in ("x_l0", "y_l0", "width_l0", "height_l0"):
        assert [row[column] for row in rows] == table[column].tolist()
    assert [row["value"] for row in rows] == pytest.approx(table["probability"].tolist())
    bands = json.loads(files["geojson"].read_text())["features"]
    highest = shapely.geometry.shape(bands[-1]["geometry"])
    called = shapely.box(*box)
    # Patches that the lesion fills are in the highest band, and nothing a patch away from it.
    assert highest.buffer(1e-6).covers(called.buffer(-PATCH_PX - 1, join_style="mitre"))
    assert called.buffer(PATCH_PX, join_style="mitre").covers(highest)
    if "png" not in files:
        return
    described = json.loads(files["png"].with_suffix(".json").read_text())
    top = described["top_patches"][0]
    assert shapely.box(top["x_l0"], top["y_l0"], top["x_l0"] + 1, top["y_l0"] + 1).within(
        called.buffer(PATCH_PX, join_style="mitre")
    )


def assert_picture_says_the_same(path: Path, prediction: wv.SlidePrediction) -> None:
    """Every pixel of level 0 has the colour of its patch, white where there is none, in our reader and OpenSlide."""
    values = prediction.patch_probability
    expected = np.full((prediction.height_l0, prediction.width_l0, 3), 255, np.uint8)
    colours = np.rint(colour_of(values.astype(float), low=0, high=1)).astype(np.uint8)
    for (left, top, right, bottom), colour in zip(prediction.boxes_l0.astype(int), colours, strict=True):
        expected[top:bottom, left:right] = colour
    with wv.open_slide(path) as slide:
        assert slide.mpp == pytest.approx(prediction.mpp)
        level = slide.levels[0]
        assert (level.width_px, level.height_px) == (prediction.width_l0, prediction.height_l0)
        read = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=level.width_px, height_px=level.height_px)
    assert np.array_equal(read, expected)
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == (prediction.width_l0, prediction.height_l0)
        assert np.array_equal(np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[..., :3], expected)


def test_every_level_of_the_pyramid_is_the_same_map(tmp_path, run, monkeypatch, painted):
    """A pixel of a coarse level has the colour of the level-0 pixel in its middle: nothing drifts."""
    monkeypatch.setattr("wsi_vmamba.prediction.heatmaps.ometiff._SMALLEST_PX", 80)
    slide = painted.write_tiff(
        tmp_path / "new.tif", painted.tissue(width=633, height=509, seed=52, lesion=LESION)
    )
    prediction = run.predict(slide)
    path = prediction.heatmap(layer="probability").save(tmp_path / "out", format="ometiff")
    with wv.open_slide(path) as made:
        finest = made.read_region(x_l0=0, y_l0=0, level=0, width_px=633, height_px=509)
        assert [level.width_px for level in made.levels] == [633, 317, 159, 80]
        for number, level in enumerate(made.levels[1:], start=1):
            factor = 2**number
            read = made.read_region(
                x_l0=0, y_l0=0, level=number, width_px=level.width_px, height_px=level.height_px
            )
            whole = read[: 509 // factor, : 633 // factor]
            middle = finest[factor // 2 :: factor, factor // 2 :: factor][: whole.shape[0], : whole.shape[1]]
            assert np.array_equal(whole, middle)


def test_patches_that_are_no_whole_number_of_pixels_do_not_drift(tmp_path, run, painted):
    """At 0.4321 um a patch of 32 px at 0.5 um is 37.03 px: after 17 patches half a pixel."""
    slide = painted.write_tiff(tmp_path / "new.tif", painted.tissue(seed=53, lesion=LESION), mpp=0.4321)
    prediction = run.predict(slide)
    assert prediction.patch_l0 == pytest.approx(32 * 0.5 / 0.4321)
    path = prediction.heatmap(layer="probability").save(tmp_path, format="ometiff")
    with wv.open_slide(path) as made:
        read = made.read_region(x_l0=0, y_l0=0, level=0, width_px=640, height_px=512)
    colours = np.rint(colour_of(prediction.patch_probability.astype(float), low=0, high=1)).astype(np.uint8)
    for (left, top, right, bottom), colour in zip(prediction.boxes_l0, colours, strict=True):
        # Pixels whose centre lies in the patch.
        part = read[round(top) : round(bottom), round(left) : round(right)]
        assert (part == colour).all()


def test_the_geojson_is_dissolved_and_as_qupath_reads_it(tmp_path, run, painted):
    slide = painted.write_tiff(tmp_path / "new.tif", painted.tissue(seed=54, lesion=LESION))
    prediction = run.predict(slide)
    path = prediction.heatmap(layer="probability").save(tmp_path, format="geojson", bands=4)
    features = json.loads(path.read_text())["features"]
    assert 2 <= len(features) <= 4
    assert sum(feature["properties"]["measurements"]["patches"] for feature in features) == 320
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert sum(shape.area for shape in shapes) == pytest.approx(640 * 512)
    assert all(a.intersection(b).area == 0 for a in shapes for b in shapes if a is not b)
    for feature, shape in zip(features, shapes, strict=True):
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        assert [0 <= part <= 255 for part in properties["classification"]["color"]] == [True] * 3
        assert properties["measurements"]["area um2"] == pytest.approx(shape.area * MPP**2)
    again = prediction.heatmap(layer="probability").save(tmp_path / "again", format="geojson", bands=4)
    assert again.read_bytes() == path.read_bytes()


def test_the_command_writes_formats_of_predictions_and_of_a_run(tmp_path, run, make_slide, invoke):
    slide = make_slide(tmp_path / "new.tif", lesion=LESION)
    assert invoke("predict", run.path, slide, "--out", tmp_path / "p").exit_code == 0
    formats = ["--format", "png", "--format", "csv"]
    assert invoke("heatmap", tmp_path / "p", *formats).exit_code == 0
    made = {path.name for path in (tmp_path / "p" / "heatmaps").iterdir()}
    stem = "new-probability"
    assert made == {f"{stem}.png", f"{stem}.json", f"{stem}.csv"}
    words = (run.path, slide, "--layer", "attention", "--format", "csv", "--out", tmp_path / "q")
    assert invoke("heatmap", *words).exit_code == 0
    values = [row["value"] for row in read_numbers(tmp_path / "q" / "new-attention.csv")]
    assert np.mean(values) == pytest.approx(1)


def test_what_cannot_be_drawn_is_said(tmp_path, run, train_run, make_slide, invoke):
    slide = make_slide(tmp_path / "new.tif", lesion=LESION)
    plain = train_run(tmp_path / "runs", aggregator="mean", epochs=2)
    with pytest.raises(
        UsageError, match=r"gives neither attention nor probability .* train one with outlines"
    ):
        plain.predict(slide).heatmap()
    with pytest.raises(UnknownNameError, match=r"unknown heatmap layer 'atention' .*attention"):
        run.predict(slide).heatmap(layer="atention")
    with pytest.raises(UnknownNameError, match="unknown heatmap format 'tif'"):
        run.predict(slide).heatmap().save(tmp_path, format="tif")
    prediction = run.predict(slide)
    slide.unlink()
    with pytest.raises(MissingDataError, match="its file is not at"):
        prediction.heatmap().draw(tmp_path)
    make_slide(tmp_path / "p" / "x.tif")
    refused = invoke("heatmap", tmp_path / "p", tmp_path / "p" / "x.tif")
    assert "no finished run" in str(refused.exception)


def test_a_line_end_in_a_name_is_said_as_an_escape(tmp_path, run, make_slide, invoke):
    slide = make_slide(tmp_path / "two\nlines.tif", lesion=LESION)
    said = invoke("heatmap", run.path, slide, "--format", "csv", "--out", tmp_path / "maps").output
    assert "two\\x0alines: " in said
    assert "two\nlines" not in said


def test_a_folder_of_features_is_no_run_and_a_slide_that_is_not_there_is_told_from_how_many(
    tmp_path, cohort, run, invoke
):
    refused = invoke("heatmap", cohort / "features")
    assert "neither a folder of predictions nor of a run" in str(refused.exception)
    assert invoke("predict", run.path, cohort / "features", "--out", tmp_path / "p").exit_code == 0
    refused = invoke("heatmap", tmp_path / "p", "elsewhere")
    assert "there are s00, s01, s02, s03, s04 and 7 more" in str(refused.exception)


def test_another_slide_than_the_predicted_one_is_not_drawn_under_its_colours(
    tmp_path, run, make_slide, painted
):
    prediction = run.predict(make_slide(tmp_path / "new.tif", lesion=LESION))
    other = painted.write_tiff(tmp_path / "other.tif", painted.tissue(width=600, height=500))
    with pytest.raises(MissingDataError, match=r"expected a slide of 640 x 512 px, .* has 600 x 500"):
        prediction.heatmap(slide=other).picture()


def test_of_a_slide_whose_size_is_not_known_the_others_are_written(tmp_path, run, cohort, invoke):
    """Feature files of before did not say it; only a format as large as the slide needs it."""
    out = tmp_path / "predictions"
    assert run.predict_all(cohort / "features", out=out, progress=False).ok
    file = out / "patches" / "s00.safetensors"
    old = dataclasses.replace(read_prediction(file), width_l0=None, height_l0=None)
    old.save(file, facts={})
    answer = invoke("heatmap", out, "s00", "s01", "--format", "ometiff")
    assert answer.exit_code == 1
    assert "s00" in answer.output
    assert "do not say how large the slide is" in answer.output.replace("\n", " ")
    (made,) = (out / "heatmaps").iterdir()
    assert made.name.startswith("s01-")
