"""What is known of pixels: outlines and label masks give the number at each centre, on any grid."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_vmamba.errors import AnnotationError, MaskError, UsageError
from wsi_vmamba.segmentation.classes import ClassTable, classes_of_outlines
from wsi_vmamba.segmentation.truth import Grid, Outlines, read_truth
from wsi_vmamba.slide import open_slide

TABLE = ClassTable(names=("stroma", "Tumor"), outside="background")
WHOLE = Grid(x_l0=0, y_l0=0, width_px=160, height_px=128, pixel_l0=4)


@pytest.fixture
def truth(tmp_path: Path, write_outlines) -> Outlines:
    path = write_outlines(
        tmp_path / "s.geojson",
        ((100, 100, 200, 200), "metastases"),  # a smaller one first: it lies on top all the same
        ((0, 0, 400, 300), "Stroma"),
        ((120, 120, 140, 140), "Exclusion"),
        ((300, 40, 340, 80), "Fat"),
    )
    return Outlines(TABLE.read(path), TABLE)


def test_the_smaller_outline_counts_and_others_are_unknown(truth: Outlines):
    expected = np.zeros((128, 160), np.uint8)
    expected[:75, :100] = 1
    expected[25:50, 25:50] = 2
    expected[30:35, 30:35] = 0
    expected[10:20, 75:85] = 255
    assert np.array_equal(truth.labels(WHOLE), expected)
    assert "group 'Fat' is none of" in " ".join(truth.notes)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (24, 20), (90, 60), (-8, 100)])
def test_a_part_of_the_grid_is_that_part_of_the_whole(truth: Outlines, x: int, y: int):
    whole = np.pad(truth.labels(WHOLE), 16)
    part = Grid(x_l0=4 * x, y_l0=4 * y, width_px=30, height_px=25, pixel_l0=4)
    assert np.array_equal(truth.labels(part), whole[y + 16 : y + 41, x + 16 : x + 46])


def test_classes_are_those_of_the_outlines(tmp_path: Path, write_outlines):
    box = (0, 0, 10, 10)
    one = write_outlines(tmp_path / "a.geojson", (box, "Stroma"), (box, "_0"), (box, "Exclusion"))
    two = write_outlines(tmp_path / "b.geojson", (box, "Tumor"), (box, "fat"))
    assert classes_of_outlines([one, two]) == ("fat", "Stroma", "tumour")
    without = write_outlines(tmp_path / "c.geojson", (box, "Stroma"), (box, None))
    with pytest.raises(AnnotationError, match=r"c\.geojson: feature 1 has no class; give it one in QuPath"):
        classes_of_outlines([one, without])
    with pytest.raises(AnnotationError, match="no file has an outline of a class"):
        classes_of_outlines([])


def test_a_file_of_other_classes_only_is_refused(tmp_path: Path, write_outlines):
    path = write_outlines(tmp_path / "a.geojson", ((0, 0, 10, 10), "fat"))
    with pytest.raises(AnnotationError, match="no area belongs to a known group; the file has fat"):
        TABLE.read(path)


@pytest.mark.parametrize(
    ("names", "outside", "message"),
    [
        (("a", "A"), "background", "each once"),
        ((), "background", "got none"),
        (("a",), "unknown", "nothing to tell"),
    ],
)
def test_a_table_needs_names_that_differ(names, outside, message: str):
    with pytest.raises(UsageError, match=message):
        ClassTable(names=names, outside=outside)


def test_label_masks_are_numbers_on_the_slide(tmp_path: Path, write_dark):
    slide_file = write_dark(tmp_path / "s.tif")
    numbers = np.zeros((64, 80), np.uint8)
    numbers[10:20, 30:50] = 2
    numbers[40:, :] = 255

    def read(picture: np.ndarray):
        cv2.imwrite(str(tmp_path / "s.png"), picture)
        with open_slide(slide_file) as slide:
            return read_truth(tmp_path / "s.png", slide, TABLE, mpp=0.5, finest_mpp=2.0)

    found = read(numbers).labels(WHOLE)
    assert np.array_equal(found, np.repeat(np.repeat(numbers, 2, axis=0), 2, axis=1))
    with pytest.raises(MaskError, match="the number 3 is of no class; there are 2"):
        read(np.where(numbers == 2, 3, numbers).astype(np.uint8))
    with pytest.raises(MaskError, match="a mask must show the whole slide"):
        read(numbers[:40])
    with pytest.raises(MaskError, match="expected numbers of classes as an 8-bit grey PNG"):
        read(np.stack([numbers, numbers, 255 - numbers], axis=-1))
