"""Measurements of pictures whose nuclei and directions are known, under other stains and turned."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsi_vmamba.pretraining.measurements import COUNT, measure
from wsi_vmamba.pretraining.stain import restain, stain_mix
from wsi_vmamba.stains import STAINS

#: Places in the numbers: what `measure` says comes in this order.
BANDS, BLOBS, DIRECTIONS, NUCLEI = slice(0, 44), slice(44, 59), slice(59, 77), slice(77, 91)


def stained(haematoxylin, eosin) -> np.ndarray:
    """A picture with these amounts (optical density) of the two stains, uint8 RGB."""
    density = haematoxylin[..., None] * STAINS[0] + eosin[..., None] * STAINS[1]
    return np.rint(255 * np.exp(-density)).astype(np.uint8)


def with_discs(radius_px: int, pitch_px: int, side_px: int = 120) -> np.ndarray:
    nuclei = np.zeros((side_px, side_px), np.float32)
    for row in range(pitch_px // 2, side_px, pitch_px):
        for column in range(pitch_px // 2, side_px, pitch_px):
            cv2.circle(nuclei, (column, row), radius_px, 1.0, -1)
    noise = np.random.default_rng(0).normal(0, 0.02, (2, side_px, side_px))
    return stained(0.1 + nuclei + noise[0], 0.3 + noise[1])


def test_every_picture_has_as_many_finite_numbers():
    rng = np.random.default_rng(0)
    for picture in (
        np.full((112, 112, 3), 255, np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        rng.integers(0, 256, (50, 70, 3), dtype=np.uint8),
        np.full((1, 1, 3), 90, np.uint8),
    ):
        numbers = measure(picture)
        assert numbers.shape == (COUNT,)
        assert numbers.dtype == np.float32
        assert np.isfinite(numbers).all()


@pytest.mark.parametrize(("radius_px", "pitch_px"), [(4, 15), (6, 20), (9, 24)])
def test_nuclei_are_counted_and_sized(radius_px, pitch_px):
    share, log_number, log_size, _, _, inner_radius = measure(with_discs(radius_px, pitch_px))[NUCLEI][:6]
    # A disc of whole pixels is half a pixel wider all around than its radius, and the smoothing adds as much again.
    number, area = (120 // pitch_px) ** 2, np.pi * (radius_px + 1) ** 2
    assert np.expm1(log_number) == pytest.approx(number, abs=0.5)
    assert np.exp(log_size) == pytest.approx(area, rel=0.25)
    assert share == pytest.approx(number * area / 120**2, rel=0.25)
    assert inner_radius == pytest.approx(radius_px + 1, abs=1)


def test_round_things_answer_at_their_own_size():
    contrast = {radius: measure(with_discs(radius, 24))[BLOBS][1::3] for radius in (2, 9)}
    assert contrast[2].argmax() < contrast[9].argmax()


def test_stripes_have_a_direction_and_noise_has_none():
    rng = np.random.default_rng(1)
    stripes = np.tile(0.5 + 0.4 * np.sin(np.arange(120) / 2.5), (120, 1))
    noise = cv2.GaussianBlur(rng.normal(0, 3, (120, 120)), (0, 0), 2.0)
    eosin = np.full((120, 120), 0.3)
    along, none = (measure(stained(plane, eosin))[DIRECTIONS] for plane in (stripes, 0.5 + 0.3 * noise))
    assert along[2] > 0.95  # weighted by strength, at the finest scale
    assert along[5] > none[5] + 0.3


def test_a_turned_picture_measures_the_same_and_one_stained_otherwise_nearly():
    picture = with_discs(5, 20)
    numbers = measure(picture)
    for turned in (np.rot90(picture), picture[:, ::-1]):
        np.testing.assert_allclose(measure(np.ascontiguousarray(turned)), numbers, atol=0.05)
    gains, amounts = np.array([1.3, 0.8, 1.0]), np.array([0.02, -0.02, 0.0])
    again = measure(restain(picture, stain_mix(gains, amounts)))
    other = measure(with_discs(9, 24))
    assert np.abs(again - numbers)[BANDS].mean() < 0.25 * np.abs(other - numbers)[BANDS].mean()
    # The threshold finds the same nuclei.
    np.testing.assert_allclose(again[NUCLEI][:8], numbers[NUCLEI][:8], atol=0.1)
