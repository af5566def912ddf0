"""How far a map spreads, of maps whose spread is known."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.analysis import spread


def test_all_at_the_point_lies_within_nothing() -> None:
    values = np.zeros((9, 9))
    values[4, 4] = 3.0
    assert spread.radii(values, (4.0, 4.0)) == (0.0, 0.0, 0.0)
    assert spread.square_areas(values, (4.0, 4.0)) == (1 / 81,) * 4
    assert spread.area_over_peak(values) == 1 / 81


def test_a_flat_map_spreads_like_the_area() -> None:
    flat = np.ones((401, 401))
    twenty, fifty, _ = spread.radii(flat, (200.0, 200.0))
    assert twenty == pytest.approx(401 * np.sqrt(0.2 / np.pi), abs=1)
    assert fifty == pytest.approx(401 * np.sqrt(0.5 / np.pi), abs=1)
    areas = spread.square_areas(flat, (200.0, 200.0))
    np.testing.assert_allclose(areas, spread.SQUARE_SHARES, atol=0.006)
    assert spread.area_over_peak(flat) == 1.0


def test_a_normal_distribution_is_over_luos_threshold_within_two_and_a_half_deviations() -> None:
    """exp(-r^2 / 2) = 4.55 % at r = 2.4859."""
    x = (np.arange(601) - 300) / 40
    values = np.exp(-(x[:, None] ** 2 + x**2) / 2)
    assert spread.area_over_peak(values) * values.size / 40**2 == pytest.approx(np.pi * 2.4859**2, rel=0.01)
    # Half of it lies within sqrt(2 ln 2).
    assert spread.radii(values, (300.0, 300.0))[1] / 40 == pytest.approx(np.sqrt(2 * np.log(2)), rel=0.01)


def test_points_are_x_and_y_and_the_cross_is_theirs() -> None:
    values = np.zeros((20, 30))
    values[5, :] = 1.0
    values[11, 0] = 10.0
    assert spread.radii(values, (0.0, 11.0))[0] == 0.0
    share, area = spread.share_in_cross(values, (12.0, 5.0), half_width=0.5)
    assert share == pytest.approx(30 / 40)
    assert area == pytest.approx((30 + 20 - 1) / 600)


def test_a_map_of_nothing_has_no_radius() -> None:
    assert np.isnan(spread.radii(np.zeros((4, 4)), (1.0, 1.0))).all()
    assert np.isnan(spread.area_over_peak(np.zeros((4, 4))))
    assert np.isnan(spread.square_areas(np.zeros((4, 4)), (1.0, 1.0))).all()
