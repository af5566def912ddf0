"""Tissue of pictures whose tissue is known: drawn slides with every nuisance, and real ones by their share."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsi_vmamba.config import OtsuSettings
from wsi_vmamba.errors import UsageError
from wsi_vmamba.tissue.otsu import tissue_of

MPP = 8.0
GLASS = (243, 241, 244)
STROMA = (222, 170, 200)
NODE = (128, 92, 160)
PALE = (228, 203, 220)  # saturation 28: faint, but tissue
RED = (190, 60, 90)
BLACK_PEN, BLUE_PEN, GREEN_PEN = (28, 28, 32), (20, 60, 170), (20, 130, 60)


def _glass(height=600, width=800, colour=GLASS, noise=3.0):
    rng = np.random.default_rng(1)
    picture = np.array(colour) + rng.normal(0, noise, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _paint(picture, centre, radii, colour):
    """A textured ellipse; returns the true mask."""
    drawn = np.zeros(picture.shape[:2], np.uint8)
    cv2.ellipse(drawn, centre, radii, 0, 0, 360, 1, -1)
    inside = drawn.astype(bool)
    texture = np.random.default_rng(2).normal(0, 9, (inside.sum(), 1))
    picture[inside] = np.clip(np.array(colour) + texture, 0, 255).astype(np.uint8)
    return inside


def _find(picture, **settings):
    return tissue_of(picture, mpp=MPP, settings=OtsuSettings(**settings))


def _overlap(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize(
    "colour", [GLASS, (255, 255, 255), (220, 220, 220), (240, 236, 230), (250, 245, 240)]
)
@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
def test_blank_glass_is_no_tissue(colour, noise):
    assert not _find(_glass(colour=colour, noise=noise)).any()


def test_a_tiny_fragment_is_found_on_noisy_glass():
    picture = _glass(1500, 2000, noise=5.0)
    true = _paint(picture, (1000, 700), (16, 12), STROMA)
    found = _find(picture)
    assert _overlap(found, true) > 0.7


@pytest.mark.parametrize("colour", [STROMA, NODE, PALE, RED])
def test_tissue_is_found_whatever_its_stain(colour):
    picture = _glass()
    true = _paint(picture, (400, 300), (200, 150), colour)
    assert _overlap(_find(picture), true) > 0.96


def test_weak_tissue_beside_strong_is_not_lost():
    picture = _glass()
    true = _paint(picture, (200, 300), (120, 150), RED) | _paint(picture, (600, 300), (120, 150), PALE)
    assert _overlap(_find(picture), true) > 0.95


@pytest.mark.parametrize("colours", [(STROMA, NODE), (PALE, RED), (NODE, NODE)])
def test_a_crop_that_is_all_tissue_is_all_found(colours):
    picture = _glass(200, 200, colour=colours[0], noise=6.0)
    picture[:, 100:] = _glass(200, 100, colour=colours[1], noise=6.0)
    assert _find(picture).mean() > 0.99


def test_specks_go_and_small_holes_fill_by_area():
    picture = _glass()
    true = _paint(picture, (300, 300), (200, 150), NODE)
    _paint(picture, (700, 100), (6, 6), NODE)  # 0.007 mm2
    fragment = _paint(picture, (700, 500), (14, 14), NODE)  # 0.04 mm2
    cv2.circle(picture, (240, 300), 14, GLASS, -1)  # 0.04 mm2
    cv2.circle(picture, (360, 300), 40, GLASS, -1)  # 0.32 mm2
    found = _find(picture)
    assert not found[80:120, 680:720].any()
    assert _overlap(found[470:530, 670:730], fragment[470:530, 670:730]) > 0.85
    assert found[300, 240]
    assert not found[300, 360]
    everything = _find(picture, min_object_um2=0.0, max_hole_um2=1e6)
    assert everything[100, 700]
    assert everything[300, 360]
    assert found[true].mean() > 0.9


def test_a_hole_at_the_border_is_no_hole():
    picture = _glass(200, 200, colour=NODE)
    cv2.circle(picture, (0, 100), 12, GLASS, -1)
    assert not _find(picture)[100, 4]


@pytest.mark.parametrize("pen", [BLACK_PEN, BLUE_PEN, GREEN_PEN])
def test_pen_marks_are_not_tissue(pen):
    picture = _glass()
    true = _paint(picture, (550, 300), (150, 150), NODE)
    stroke = np.zeros(picture.shape[:2], np.uint8)
    cv2.polylines(stroke, [np.array([(40, 60), (250, 120), (60, 300), (280, 520)])], False, 1, 26)
    picture[stroke.astype(bool)] = pen
    picture = cv2.GaussianBlur(picture, (0, 0), 1.2)
    found = _find(picture)
    assert not found[:, :330].any()
    assert _overlap(found, true) > 0.95


def test_a_slide_with_only_a_pen_mark_is_empty():
    picture = _glass()
    cv2.circle(picture, (400, 300), 200, GREEN_PEN, 24)
    assert not _find(cv2.GaussianBlur(picture, (0, 0), 1.2)).any()


def test_a_pen_mark_over_tissue_is_cut_out_and_stays_out():
    picture = _glass()
    true = _paint(picture, (400, 300), (250, 220), NODE)
    stroke = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(stroke, (60, 300), (740, 300), 1, 24)
    picture[stroke.astype(bool)] = GREEN_PEN
    found = _find(picture)
    assert not found[stroke.astype(bool)].any()
    assert found[true & ~stroke.astype(bool)].mean() > 0.93


def test_black_borders_are_not_tissue():
    picture = _glass()
    true = _paint(picture, (450, 300), (200, 150), STROMA)
    picture[:, :60] = (6, 4, 5)
    picture[560:] = (12, 3, 8)
    found = _find(picture)
    assert not found[:, :60].any()
    assert not found[560:].any()
    assert _overlap(found, true) > 0.95


def test_pigment_inside_tissue_stays_tissue():
    picture = _glass()
    _paint(picture, (400, 300), (200, 150), NODE)
    for x in range(300, 500, 50):
        cv2.circle(picture, (x, 300), 9, (35, 30, 34), -1)  # anthracosis: black, 0.016 mm2 each
    found = _find(picture)
    assert found[290:310, 290:510].all()


def test_areas_mean_the_same_at_another_resolution():
    picture = _glass()
    _paint(picture, (300, 300), (200, 150), NODE)
    _paint(picture, (700, 100), (20, 20), NODE)
    fine = _find(picture)
    coarse = tissue_of(
        cv2.resize(picture, (400, 300), interpolation=cv2.INTER_AREA), mpp=2 * MPP, settings=OtsuSettings()
    )
    assert coarse.mean() == pytest.approx(fine.mean(), rel=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 3), (50, 1)])
@pytest.mark.parametrize(("colour", "share"), [(GLASS, 0.0), (NODE, None)])
def test_tiny_pictures_work(shape, colour, share):
    picture = np.full((*shape, 3), colour, np.uint8)
    found = _find(picture, min_object_um2=0.0)
    assert found.shape == shape
    assert found.mean() == (1.0 if share is None else share)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_saturation": 0},
        {"min_saturation": 30, "max_saturation": 20},
        {"max_hole_um2": -1.0},
        {"min_contrast": -1},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(UsageError):
        OtsuSettings(**settings)
