"""What is drawn lies where the settings say, and every change by value."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.augment import Change, change, draw_changes, light_levels, orient, through_jpeg
from wsi_vmamba.pretraining.stain import restain
from wsi_vmamba.pretraining.view_settings import Augmentation
from wsi_vmamba.stains import stain_amounts

NOTHING = Augmentation(
    turn=False, stain_gain=0, stain_shift=0, stain_hue=0, brightness=0, contrast=0, blur_p=0, jpeg_p=0, grey_p=0,
    haematoxylin_p=0,
)  # fmt: skip


def only(**changes):
    return Augmentation(
        **{**{name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__}, **changes}
    )


def noise(side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def drawn(how, count=4000):
    return draw_changes(np.random.default_rng(5), how, count=count)


def test_no_strength_is_no_change():
    picture = noise()
    for how in drawn(NOTHING, 20):
        assert np.array_equal(change(picture, how), picture)


def test_stains_of_no_strength_are_the_same_to_a_grey_level():
    # A stain that is not changed in a picture whose others might be.
    picture = noise()
    for how in drawn(only(haematoxylin_p=1e-9), 20):
        assert how.mix is not None
        assert np.abs(change(picture, how).astype(int) - picture).max() <= 1


def test_the_eight_orientations_are_exact_and_all_there():
    picture = noise()
    expected = {np.rot90(side, turns).tobytes() for side in (picture, picture[:, ::-1]) for turns in range(4)}
    before = picture.copy()
    assert {orient(picture, orientation).tobytes() for orientation in range(8)} == expected
    assert len(expected) == 8
    assert np.array_equal(picture, before)
    assert np.array_equal(orient(picture, 1), picture.transpose(1, 0, 2))
    assert np.array_equal(orient(picture, 2), picture[:, ::-1])
    assert np.array_equal(orient(picture, 4), picture[::-1])


def test_orientations_are_drawn_equally_often():
    counts = np.bincount([how.orientation for how in drawn(only(turn=True))], minlength=8)
    assert np.abs(counts - 500).max() < 100  # 4.8 standard deviations


def test_light_is_changed_about_the_middle_and_kept_in_range():
    same, brighter, contrast = light_levels(np.array([1, 1.5, 2.0]), np.array([0, 0, -127.5]))
    assert np.array_equal(same, np.arange(256))
    assert brighter[[0, 10, 100, 171, 255]].tolist() == [0, 15, 150, 255, 255]
    assert contrast[[0, 63, 64, 127, 128, 192, 255]].tolist() == [0, 0, 0, 126, 128, 255, 255]
    picture = noise()
    assert np.array_equal(change(picture, Change(light=brighter)), brighter[picture])


def test_light_is_drawn_within_its_strength():
    factors = [how.light[100] / 100 for how in drawn(only(brightness=0.2)) if how.light is not None]
    assert len(factors) == 4000
    assert (min(factors), max(factors)) == pytest.approx((0.8, 1.2), abs=0.01)


def test_stain_gains_are_drawn_within_their_strength():
    pixel = np.rint(255 * np.exp(-0.4 * np.array([[[0.651, 0.701, 0.290]]]))).astype(np.uint8)
    amounts = [stain_amounts(restain(pixel, how.mix))[0, 0, 0] / 0.4 for how in drawn(only(stain_gain=1.0))]
    assert (min(amounts), max(amounts)) == pytest.approx((0.5, 2.0), abs=0.03)
    assert np.median(amounts) == pytest.approx(1.0, abs=0.05)  # log-uniform


def test_haematoxylin_alone_leaves_no_eosin():
    picture = np.full((4, 4, 3), (150, 80, 140), dtype=np.uint8)
    before = stain_amounts(picture)[0, 0]
    after = stain_amounts(change(picture, drawn(only(haematoxylin_p=1.0), 1)[0]))[0, 0]
    assert before[1] > 0.3
    assert after == pytest.approx([before[0], 0, 0], abs=0.02)


def test_grey_is_the_luminance():
    grey = change(np.full((4, 4, 3), (200, 100, 50), dtype=np.uint8), Change(grey=True))
    assert np.unique(grey).tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


def test_blur_spreads_and_keeps_the_sum():
    picture = np.zeros((33, 33, 3), dtype=np.uint8)
    picture[16, 16] = 255
    blurred = change(picture, Change(blur_sigma_px=1.0)).astype(float)
    assert blurred[16, 16, 0] == pytest.approx(255 / (2 * np.pi), abs=2)
    assert blurred[16, 17, 0] / blurred[16, 16, 0] == pytest.approx(np.exp(-0.5), abs=0.05)
    assert blurred[..., 0].sum() == pytest.approx(255, rel=0.05)


def test_jpeg_is_close_and_closer_at_a_better_quality():
    ramp = np.linspace(40, 220, 64).astype(np.uint8)
    smooth = np.stack(
        [np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 130, np.uint8)], -1
    )
    errors = [
        np.abs(through_jpeg(smooth, quality=quality).astype(float) - smooth).mean() for quality in (95, 30)
    ]
    assert errors[0] < 2 < 3 * errors[0] + 2
    assert errors[0] < errors[1] < 10


def test_probabilities_and_ranges_are_kept():
    changes = drawn(
        only(blur_p=0.3, blur_sigma_px=(0.5, 1.5), jpeg_p=0.25, jpeg_quality=(40, 42), grey_p=0.1)
    )
    sigmas = [how.blur_sigma_px for how in changes if how.blur_sigma_px]
    qualities = [how.jpeg_quality for how in changes if how.jpeg_quality]
    assert len(sigmas) / 4000 == pytest.approx(0.3, abs=0.03)
    assert (min(sigmas), max(sigmas)) == pytest.approx((0.5, 1.5), abs=0.01)
    assert len(qualities) / 4000 == pytest.approx(0.25, abs=0.03)
    assert set(qualities) == {40, 41, 42}
    assert sum(how.grey for how in changes) / 4000 == pytest.approx(0.1, abs=0.02)


def test_strengths_out_of_range_are_refused():
    with pytest.raises(UsageError, match=r"blur_p must lie between 0 and 1, got 1\.2"):
        Augmentation(blur_p=1.2)
    with pytest.raises(UsageError, match="jpeg_quality must lie between 1 and 100, the lesser first"):
        Augmentation(jpeg_quality=(90, 40))
