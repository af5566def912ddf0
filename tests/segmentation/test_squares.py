"""Squares: a label stays with its pixel, however it is cut, turned and resized; classes come at even chances."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import DatasetError, MissingDataError
from wsi_vmamba.segmentation.classes import ClassTable
from wsi_vmamba.segmentation.pictures import PictureSquares, find_pictures, largest_number
from wsi_vmamba.segmentation.slides import LabelledSlide, SlideSquares
from wsi_vmamba.segmentation.squares import AUGMENTS
from wsi_vmamba.segmentation.truth import read_truth
from wsi_vmamba.slide import open_slide, resolve_mpp

TABLE = ClassTable(names=("tumour",), outside="background")


@pytest.fixture
def squares(tmp_path: Path, write_dark, write_outlines):
    path = write_outlines(tmp_path / "s.geojson", ((256, 128, 448, 320), "Tumor"))
    with open_slide(write_dark(tmp_path / "s.tif")) as slide:
        mpp = resolve_mpp(slide)
        truth = read_truth(path, slide, TABLE, mpp=mpp.value, finest_mpp=2.0)
        labelled = LabelledSlide.of(
            slide,
            truth,
            TABLE,
            ExtractConfig(target_mpp=1.0, segmenter="all"),
            mpp=mpp,
            slide_id="s",
            made_of="x",
        )
        yield SlideSquares([labelled], TABLE, side_px=96, what="training")


@pytest.mark.parametrize("augment", ["tissue", "none"])
def test_dark_pixels_of_a_slide_are_those_that_are_outlined(squares, augment):
    shown = 0
    for number in range(24):
        square = AUGMENTS[augment](np.random.default_rng(number), squares.draw(np.random.default_rng(number)))
        assert square.pixels.shape == (96, 96, 3)
        dark = (
            square.pixels.astype(int).sum(axis=2)
            < np.median(square.pixels[square.labels == 0].sum(axis=1)) - 130
        )
        inner = cv2.erode((square.labels == 1).astype(np.uint8), np.ones((5, 5))) > 0
        outer = cv2.dilate((square.labels == 1).astype(np.uint8), np.ones((5, 5))) > 0
        assert dark[inner].mean() > 0.97 if inner.any() else True
        assert dark[~outer].mean() < 0.03 if (~outer).any() else True
        shown += bool((square.labels == 1).any())
    assert shown > 12  # the dark square is a tenth of the slide


def test_beyond_the_slide_nothing_is_known(squares):
    labels = squares._slides[0].square(x_px=260, y_px=200, side_px=96, outside=0).labels
    assert (labels[:56, :60] == 0).all()
    assert (labels[56:] == 255).all()
    assert (labels[:, 60:] == 255).all()


def test_a_class_that_no_slide_shows_is_named(squares):
    table = ClassTable(names=("tumour", "fat"), outside="background")
    with pytest.raises(
        DatasetError, match="the training slides need all classes, and none of these 1 shows fat"
    ):
        SlideSquares(squares._slides, table, side_px=96, what="training")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of several sizes whose colour is 40 times the number of the class, left and right differing."""
    for split, sizes in (("training", ((60, 80), (100, 70))), ("validation", ((50, 50),))):
        for number, (height, width) in enumerate(sizes):
            labels = np.full((height, width), 1, np.uint8)
            labels[:, width // 2 :] = 2
            labels[: height // 3] = 0
            for kind, picture, name in (
                ("images", np.repeat(40 * labels[..., None], 3, axis=-1), f"{number}.png"),
                ("annotations", labels, f"{number}.png"),
            ):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / kind / split / name), picture)
    return tmp_path


@pytest.mark.parametrize("outside", ["background", "unknown"])
def test_numbers_of_pictures_stay_with_their_pixels(pictures: Path, outside):
    table = ClassTable(names=("left", "right"), outside=outside)
    found = find_pictures(pictures, "train")
    assert largest_number(found) == 2
    squares = PictureSquares(found, table, side_px=64, scale=(0.5, 2.0), short_side_px=None)
    for number in range(10):
        square = squares.draw(np.random.default_rng(number))
        if number % 2:
            square = AUGMENTS["photograph"](np.random.default_rng(number), square)
        else:
            expected = np.rint(square.pixels[..., 0] / 40).astype(np.uint8)
            known = square.labels != 255
            assert known.mean() > 0.1
            # Colours are mixed where pictures are resized, at edges.
            assert (expected == square.labels)[known].mean() > 0.95
        assert (0 in square.labels) <= (outside == "background")
    judged = PictureSquares(
        find_pictures(pictures, "validation"), table, side_px=64, scale=(1, 1), short_side_px=None
    )
    assert judged.judged(99) == 1
    assert judged.judge(0).labels.shape == (50, 50)


def test_a_description_shows_when_a_picture_or_its_mask_changes(pictures: Path):
    table = ClassTable(names=("left", "right"), outside="background")

    def described() -> str:
        found = find_pictures(pictures, "train")
        return PictureSquares(found, table, side_px=64, scale=(1, 1), short_side_px=None).describe()

    first = described()
    assert described() == first
    picture, mask = (pictures / kind / "training" / "0.png" for kind in ("images", "annotations"))
    there, facts = mask.read_bytes(), mask.stat()
    mask.write_bytes(there[:-1] + b"x")  # as many bytes, at the same time
    os.utime(mask, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert described() != first
    mask.write_bytes(there)  # at another time, the same bytes
    assert described() == first
    facts = picture.stat()
    os.utime(picture, (facts.st_atime, facts.st_mtime - 60))
    assert described() != first
    os.utime(picture, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert described() == first
    picture.write_bytes(picture.read_bytes() + b"x")
    os.utime(picture, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert described() != first
    found = find_pictures(pictures, "validation")
    found[0].mask.unlink()
    with pytest.raises(DatasetError, match=r"annotations/validation/0\.png cannot be read"):
        PictureSquares(found, table, side_px=64, scale=(1, 1), short_side_px=None).describe()


def test_what_pictures_lack_is_named(pictures: Path):
    table = ClassTable(names=("left",), outside="background")
    with pytest.raises(DatasetError, match=r"0\.png: the number 2 is of no class; there are 1 \(left\)"):
        PictureSquares(
            find_pictures(pictures, "validation"), table, side_px=64, scale=(1, 1), short_side_px=None
        ).judge(0)
    mask = pictures / "annotations" / "training" / "0.png"
    cv2.imwrite(str(mask), np.ones((10, 10), np.uint8))
    squares = PictureSquares(
        find_pictures(pictures, "train"), table, side_px=64, scale=(1, 1), short_side_px=None
    )
    with pytest.raises(DatasetError, match="has 10 x 10 px, its picture 80 x 60; a mask must be as large"):
        squares.judge(0)
    mask.unlink()
    with pytest.raises(DatasetError, match=r"1 pictures have no mask \(0\.png\)"):
        find_pictures(pictures, "train")
    with pytest.raises(MissingDataError, match=r"no folder .*images/train; expected"):
        find_pictures(pictures / "images", "train")
