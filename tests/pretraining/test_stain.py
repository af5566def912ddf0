"""Stains taken apart and changed: amounts that a test mixed itself come back, and change as asked."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.pretraining.stain import restain, stain_colours, stain_mix
from wsi_vmamba.stains import STAINS, STAINS_RGB, stain_amounts

SAME = np.ones(3), np.zeros(3)
#: Published optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001), made unit vectors by hand.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / 0.998298
EOSIN = np.array([0.07, 0.99, 0.11]) / 0.998549


def stained(*amounts):
    """A picture of one row, a pixel for each (haematoxylin, eosin)."""
    densities = np.array([h * HAEMATOXYLIN + e * EOSIN for h, e in amounts])
    return np.rint(255 * np.exp(-densities)).astype(np.uint8)[None]


def test_the_stains_are_those_published():
    assert STAINS_RGB.tolist() == [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]
    assert np.allclose(STAINS[0], HAEMATOXYLIN, atol=1e-6)
    assert np.allclose(STAINS[1], EOSIN, atol=1e-6)
    assert np.allclose(np.linalg.norm(STAINS, axis=1), 1)


def test_amounts_that_were_mixed_come_back():
    found = stain_amounts(stained((0, 0), (0.5, 0), (0, 0.7), (0.6, 0.4)))
    assert np.allclose(found[0], [[0, 0, 0], [0.5, 0, 0], [0, 0.7, 0], [0.6, 0.4, 0]], atol=0.015)


def test_nothing_changed_is_the_same_picture_to_a_grey_level():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    after = restain(picture, stain_mix(*SAME))
    assert np.abs(after.astype(int) - picture).max() <= 1
    glass = np.full((4, 4, 3), 255, dtype=np.uint8)
    assert np.array_equal(restain(glass, stain_mix(*SAME)), glass)


@pytest.mark.parametrize(
    ("gains", "shift", "expected"),
    [
        ((2, 1, 1), (0, 0, 0), (1.0, 0.3)),
        ((1, 0.5, 1), (0, 0, 0), (0.5, 0.15)),
        ((1, 0, 0), (0, 0, 0), (0.5, 0.0)),
        ((1, 1, 1), (0.1, -0.05, 0), (0.6, 0.25)),
        ((2, 1, 1), (0.1, 0, 0), (1.1, 0.3)),
    ],
)
def test_each_stain_changes_as_asked(gains, shift, expected):
    picture = stained((0.5, 0.3))
    after = restain(picture, stain_mix(np.array(gains, float), np.array(shift, float)))
    assert np.allclose(stain_amounts(after)[0, 0], [*expected, 0], atol=0.02)


def test_other_colours_of_the_stains_are_taken():
    hue = np.array([[0.1, -0.1, 0.05], [0.05, 0, 0.1], [0, 0, 0]])
    colours = stain_colours(hue)
    assert np.allclose(np.linalg.norm(colours, axis=-1), 1)
    after = restain(stained((0.5, 0.3)), stain_mix(*SAME, colours=colours))
    expected = 255 * np.exp(-(0.5 * colours[0] + 0.3 * colours[1]))
    assert np.abs(after[0, 0] - expected).max() <= 2


def test_many_mixes_at_once_are_each_as_alone():
    rng = np.random.default_rng(1)
    gains, shift = rng.uniform(0.5, 2, (5, 3)), rng.uniform(-0.1, 0.1, (5, 3))
    colours = stain_colours(rng.normal(0, 0.05, (5, 3, 3)))
    together = stain_mix(gains, shift, colours=colours)
    for at in range(5):
        assert np.allclose(together[at], stain_mix(gains[at], shift[at], colours=colours[at]))
