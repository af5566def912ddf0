"""Fields of view: scales, levels and places by value; tissue first; few tiles; nothing outside the slide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_vmamba.pretraining.field_reader import read_field, stained_share
from wsi_vmamba.pretraining.fields_of_view import Field, SlideDraw, best_level, draw_field, place
from wsi_vmamba.pretraining.found_slides import FoundSlide
from wsi_vmamba.pretraining.tissue_places import TissuePlaces
from wsi_vmamba.pretraining.view_settings import ViewSettings
from wsi_vmamba.slide.base import Level
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.tissue import TissueMask


def found(mask, *, mpp=0.5, mask_downsample=16.0, downsamples=(1, 2, 4), tile=None, index=0):
    height, width = (int(side * mask_downsample) for side in mask.shape)
    levels = tuple(
        Level(
            width_px=width // d, height_px=height // d, downsample=float(d), stored_px=tile and (tile, tile)
        )
        for d in downsamples
    )
    places = TissuePlaces.of(TissueMask(mask=mask, downsample=mask_downsample, mpp=mpp * mask_downsample))
    return FoundSlide(
        index=index, slide_id=f"s{index}", path=Path("none"), mpp=mpp, levels=levels, places=places
    )  # fmt: skip


def settings(**changes):
    return ViewSettings(**{"batch": 1, "field_px": 160, **changes})


def fields(slide, count=300, **changes):
    rng = np.random.default_rng(2)
    return [draw_field(rng, slide, settings(**changes)) for _ in range(count)]


def test_scales_are_log_uniform_and_read_from_the_level_just_finer():
    drawn = fields(found(np.ones((200, 200), dtype=np.bool_)), 2000, um_per_px=(0.25, 2.0))
    scales = np.array([field.um_per_px for field in drawn])
    # The slide has 0.5 um, so nothing finer is shown; from there to 2.0 the logarithm is uniform.
    assert (scales.min(), scales.max()) == pytest.approx((0.5, 2.0), abs=0.01)
    assert np.histogram(np.log2(scales), bins=4, range=(-1, 1))[0] == pytest.approx(500, abs=100)
    for field in drawn:
        level_mpp = 0.5 * 2**field.level
        assert level_mpp <= field.um_per_px * 1.001
        assert field.um_per_px < 2 * level_mpp * 1.001 or field.level == 2
        assert field.side_px == round(160 * field.um_per_px / level_mpp)


def test_a_slide_coarser_than_all_scales_is_shown_as_it_is():
    drawn = fields(found(np.ones((99, 99), dtype=np.bool_), mpp=3.0), um_per_px=(0.25, 2.0))
    assert {(field.level, field.um_per_px, field.side_px) for field in drawn} == {(0, 3.0, 160)}


def test_scales_stop_where_a_field_no_longer_fits_into_the_slide():
    drawn = fields(found(np.ones((20, 40), dtype=np.bool_)), um_per_px=(0.5, 2.0))  # 320 x 640 px
    assert max(field.um_per_px for field in drawn) == pytest.approx(1.0, abs=0.02)
    for field in drawn:
        assert min(field.x_px, field.y_px) >= 0
        assert field.y_px + field.side_px <= 320 / 2**field.level + 1


def test_fields_show_tissue():
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[:, :30] = True
    for field in fields(found(mask, downsamples=(1,)), um_per_px=(0.5, 0.5), min_tissue=0.75):
        assert field.x_px + field.side_px * 0.75 <= 480 + 16


def test_where_no_field_has_enough_tissue_the_fullest_is_taken():
    mask = np.zeros((100, 100), dtype=np.bool_)
    mask[50, 50] = True
    for field in fields(found(mask, downsamples=(1,)), 20, um_per_px=(0.5, 0.5), min_tissue=0.9):
        assert abs(field.x_px + 80 - 808) <= 8
        assert abs(field.y_px + 80 - 808) <= 8


@given(
    centre=st.floats(0, 5000),
    side=st.integers(1, 700),
    length=st.integers(300, 5000),
    tile=st.integers(1, 600),
)
def test_a_place_lies_inside_near_its_point_and_on_few_tiles(centre, side, length, tile):
    centre = min(centre, length)
    start = place(centre, side, length_px=length, tile_px=tile)
    if side >= length:
        assert start == (length - side) // 2
        return
    assert 0 <= start <= length - side
    free = min(max(0, round(centre - side / 2)), length - side)
    assert abs(start - free) <= side / 2
    tiles = (start + side - 1) // tile - start // tile + 1
    fewest = math.ceil(side / tile)
    # One more only where the level ends before the next tile would be used.
    assert tiles == fewest or (start == free and tiles == fewest + 1 and start + tile + side > length)


def test_the_coarsest_level_that_is_fine_enough():
    levels = [Level(width_px=9, height_px=9, downsample=d) for d in (1.0, 2.0, 4.0)]
    assert [best_level(levels, downsample=d) for d in (0.5, 1, 1.9, 1.9999, 2, 3.9, 4, 99)] == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(("weight", "expected"), [("equal", (0.5, 0.5)), ("sqrt_area", (0.2, 0.8))])
def test_slides_are_drawn_by_their_weight(weight, expected):
    small, large = np.ones((10, 10), dtype=np.bool_), np.ones((40, 40), dtype=np.bool_)
    draw = SlideDraw([found(small, index=0), found(large, index=1)], settings(slide_weight=weight))
    rng = np.random.default_rng(3)
    counts = np.bincount([draw.draw(rng).index for _ in range(2000)], minlength=2)
    assert counts / 2000 == pytest.approx(expected, abs=0.04)


def test_what_is_read_is_what_lies_there():
    rows, columns = np.mgrid[:256, :256]
    slide = ArraySlide(np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8), 0.5, downsamples=(1, 2))
    fine = read_field(slide, Field(level=0, x_px=17, y_px=90, side_px=40, um_per_px=0.5))
    assert np.array_equal(fine[0, :, 0], np.arange(17, 57))
    assert np.array_equal(fine[:, 0, 1], np.arange(90, 130))
    coarse = read_field(slide, Field(level=1, x_px=17, y_px=90, side_px=30, um_per_px=1.0))
    assert np.abs(coarse[0, :, 0].astype(int) - (2 * np.arange(17, 47) + 0.5)).max() <= 0.5
    assert np.abs(coarse[:, 0, 1].astype(int) - (2 * np.arange(90, 120) + 0.5)).max() <= 0.5


def test_the_stained_share_counts_what_is_darker_in_any_colour():
    picture = np.full((64, 64, 3), 240, dtype=np.uint8)
    assert stained_share(picture) == 0
    picture[:16] = (250, 200, 250)
    assert stained_share(picture) == 0.25
