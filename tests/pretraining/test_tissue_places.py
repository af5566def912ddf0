"""Points of the tissue: only there, everywhere equally likely; shares against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.pretraining.tissue_places import TissuePlaces
from wsi_vmamba.tissue import TissueMask


def places_of(mask, downsample=4.0):
    return TissuePlaces.of(TissueMask(mask=np.asarray(mask, dtype=np.bool_), downsample=downsample, mpp=2.0))


def test_every_pixel_of_tissue_is_drawn_equally_often_and_no_other():
    mask = np.random.default_rng(0).random((7, 13)) < 0.3
    mask[3] = False
    places = places_of(mask)
    rng = np.random.default_rng(1)
    counts = np.zeros(mask.shape, dtype=int)
    for _ in range(400 * int(mask.sum())):
        x, y = places.draw(rng)
        counts[int(y // 4), int(x // 4)] += 1
    assert not counts[~mask].any()
    assert np.abs(counts[mask] - 400).max() < 100  # five standard deviations
    assert places.count == mask.sum()
    assert places.area_um2 == 4 * mask.sum()


def test_shares_are_those_counted():
    mask = np.random.default_rng(2).random((20, 21)) < 0.5
    places = places_of(mask)
    for left, top, side in [(0, 0, 5), (3, 7, 8), (15, 15, 5), (20, 19, 1)]:
        expected = mask[top : top + side, left : left + side].sum() / side**2
        assert places.share(x_l0=4 * left, y_l0=4 * top, side_l0=4 * side) == pytest.approx(expected)
    # Outside is no tissue: a quarter of this square lies on the slide.
    assert places.share(x_l0=-16, y_l0=-16, side_l0=32) == pytest.approx(mask[:4, :4].sum() / 64)
    assert places.share(x_l0=1000, y_l0=0, side_l0=32) == 0
