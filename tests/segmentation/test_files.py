"""What is written of a slide: outlines and label image give the canvas again, at the slide's geometry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.annotation import Role, read_annotation
from wsi_vmamba.annotation.raster import draw
from wsi_vmamba.metrics.detection_files import read_detections
from wsi_vmamba.regions import Region, RegionPlan, RegionSpec
from wsi_vmamba.segmentation import files
from wsi_vmamba.segmentation.canvas import Canvas
from wsi_vmamba.segmentation.classes import ClassTable

TABLE = ClassTable(names=("tumour", "fat"), outside="background")
#: 2 level-0 pixels per target pixel, so a cell is 8 level-0 pixels; patches of 64 target pixels are 16 cells.
PLAN = RegionPlan(
    spec=RegionSpec(target_mpp=0.5, region_px=512, patch_px=64), width_l0=700, height_l0=500, mpp=0.25, level=0,
    downsample=1.0, scale=2.0, regions=(),
)  # fmt: skip
REGION = Region(
    index=0, x_px=64, y_px=64, width_px=128, height_px=128, patches=np.array([[1, 1], [2, 1], [1, 2]])
)


@pytest.fixture
def canvas() -> Canvas:
    canvas = Canvas.of(PLAN, lesion=True)
    shares = np.zeros((3, 32, 32), np.float32)
    shares[0] = 0.6
    shares[1] = 0.3
    shares[1, 4:20, 2:10] = 0.9  # tumour
    shares[2, 8:12, 4:6] = 0.95  # fat in it
    shares[1, 30, 3] = 0.8  # a speck
    kept = PLAN.tissue(REGION)
    for row in (0, 16):
        canvas.take(REGION, kept, shares[:, row : row + 16], row=row, first=0, lesion=1)
    return canvas


def test_bands_of_a_region_lie_in_their_place_and_patches_without_tissue_stay_empty(canvas: Canvas):
    assert canvas.numbers.shape == (64, 96)
    expected = np.zeros((64, 96), np.uint8)
    expected[20:36, 18:26] = 1
    expected[24:28, 20:22] = 2
    expected[46, 19] = 1
    assert np.array_equal(canvas.numbers, expected)
    assert canvas.certainty[20, 18] == round(0.9 * 255)
    assert (canvas.certainty[32:48, 32:48] == 0).all()  # the patch without tissue
    assert canvas.lesion is not None
    assert np.isnan(canvas.lesion[0]).all()
    assert np.isnan(canvas.lesion[2, 2])
    assert canvas.lesion[1, 1] == pytest.approx(0.3 + 0.6 * 12 * 8 / 256)


def test_small_pieces_become_background(canvas: Canvas):
    assert canvas.cell_um2 == 4
    canvas.drop_small(numbers=(1, 2), min_area_um2=4.1)
    assert canvas.numbers[46, 19] == 0
    assert (canvas.numbers == 1).sum() == 16 * 8 - 8
    canvas.drop_small(numbers=(1, 2), min_area_um2=33)
    assert (canvas.numbers == 2).sum() == 0
    assert (canvas.numbers == 1).sum() == 16 * 8 - 8


def test_outlines_drawn_again_are_the_canvas(canvas: Canvas, tmp_path: Path):
    assert files.write_geojson(canvas, TABLE, tmp_path / "s.geojson", slide_id="s") == 3
    found = read_annotation(tmp_path / "s.geojson", others=Role.INCLUDED)
    for number, name in enumerate(TABLE.names, 1):
        drawn = np.zeros(canvas.numbers.shape, np.bool_)
        for outline in found.outlines:
            if outline.group == name:
                drawn |= draw(outline.geometry, width_px=96, height_px=64, downsample=8)
        assert np.array_equal(drawn, canvas.numbers == number)
    features = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert [feature["properties"]["classification"]["name"] for feature in features] == [
        "tumour",
        "tumour",
        "fat",
    ]
    assert features[0]["properties"]["classification"]["color"] == [200, 0, 0]
    assert features[0]["properties"]["measurements"] == {
        "area um2": 480.0,
        "mean probability": pytest.approx(0.9, abs=3e-3),
    }
    assert len({feature["id"] for feature in features}) == 3


def test_the_label_image_is_as_large_as_the_slide(canvas: Canvas, tmp_path: Path):
    files.write_label_image(canvas, TABLE, tmp_path / "s.ome.tif", slide_id="s")
    with tifffile.TiffFile(tmp_path / "s.ome.tif") as tif:
        level = tif.series[0].levels[0]
        assert level.shape == (500, 700)
        assert level.dtype == np.uint8
        expected = np.repeat(np.repeat(canvas.numbers, 8, axis=0), 8, axis=1)[:500, :700]
        assert np.array_equal(level.asarray(), expected)
        assert 'PhysicalSizeX="0.25"' in tif.ome_metadata
        assert "0: background, 1: tumour, 2: fat" in tif.ome_metadata


def test_detections_are_read_again_and_lie_on_the_slide(canvas: Canvas, tmp_path: Path):
    found = canvas.detections(merge_um=10.0)
    assert len(found) == 3
    assert found.row(0) == pytest.approx((0.525, 192, 192), abs=1e-3)
    files.write_detections(found, tmp_path / "s.csv")
    again = read_detections(tmp_path / "s.csv")
    assert [again.row(i) for i in range(3)] == [found.row(i) for i in range(3)]
    assert len(canvas.detections(merge_um=1000.0)) == 1
