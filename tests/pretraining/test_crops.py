"""Crops by value: a ramp stays a ramp where it was, flat stays flat, fine stripes become grey."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsi_vmamba.pretraining.crops import Crop, cut, draw_crops
from wsi_vmamba.pretraining.resample import resample

WHOLE = Crop(x=0, y=0, width=1, height=1)


def ramp(height, width):
    """Red rises by one a column, green by one a row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 77)], axis=-1).astype(np.uint8)


def test_a_crop_of_the_wanted_size_is_untouched():
    picture = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert np.array_equal(cut(picture, WHOLE, side_px=50), picture)
    part = cut(picture, Crop(x=0.2, y=0.4, width=0.5, height=0.5), side_px=25)
    assert np.array_equal(part, picture[20:45, 10:35])


@pytest.mark.parametrize("side_px", [20, 37, 100, 190])
def test_pixels_come_from_where_the_crop_is(side_px):
    crop = Crop(x=0.1, y=0.3, width=0.6, height=0.4)
    view = cut(ramp(200, 200), crop, side_px=side_px).astype(float)
    centres = (np.arange(side_px) + 0.5) / side_px
    inner = slice(3 * side_px // 20, -3 * side_px // 20)  # at the edges the last pixel goes on
    assert np.abs(view[..., 0] - (20 + 120 * centres - 0.5)[None, :])[:, inner].max() <= 1
    assert np.abs(view[..., 1] - (60 + 80 * centres - 0.5)[:, None])[inner].max() <= 1
    assert np.unique(view[..., 2]).tolist() == [77]


@pytest.mark.parametrize(("height", "width", "side_px"), [(1, 1, 8), (3, 2, 64), (7, 300, 64), (150, 50, 50)])
def test_flat_stays_flat_at_any_size(height, width, side_px):
    flat = np.full((height, width, 3), (12, 200, 255), dtype=np.uint8)
    assert np.array_equal(
        resample(flat, side_px=side_px), np.broadcast_to(flat[:1, :1], (side_px, side_px, 3))
    )


def test_stripes_finer_than_a_pixel_become_grey():
    stripes = np.zeros((200, 200, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    view = resample(stripes, side_px=64)[:, 4:-4].astype(float)
    assert np.abs(view - 100).max() < 12


def test_crops_have_the_area_and_aspect_asked_for_and_lie_inside():
    crops = draw_crops(np.random.default_rng(3), count=5000, share=(0.2, 0.6), aspect=(0.8, 1.25))
    areas = np.array([crop.width * crop.height for crop in crops])
    ratios = np.array([crop.width / crop.height for crop in crops])
    assert (areas.min(), areas.max()) == pytest.approx((0.2, 0.6), abs=0.002)
    assert areas.mean() == pytest.approx(0.4, abs=0.01)
    assert (ratios.min(), ratios.max()) == pytest.approx((0.8, 1.25), abs=0.01)
    assert all(0 <= crop.x <= crop.x + crop.width <= 1 + 1e-9 for crop in crops)
    assert all(0 <= crop.y <= crop.y + crop.height <= 1 + 1e-9 for crop in crops)
    free = [crop.x / (1 - crop.width) for crop in crops]
    assert np.histogram(free, bins=5, range=(0, 1))[0] == pytest.approx(1000, abs=150)


def test_a_crop_of_all_of_it_is_square_whatever_the_aspect():
    for crop in draw_crops(np.random.default_rng(3), count=50, share=(1, 1), aspect=(0.5, 2)):
        assert (crop.width, crop.height) == pytest.approx((1, 1))
        assert math.isclose(crop.x, 0, abs_tol=1e-12)
