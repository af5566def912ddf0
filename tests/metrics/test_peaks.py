"""Detections from the patches of a slide."""

import numpy as np
import pytest

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.peaks import detect_peaks

CENTRES = np.array([[0.5, 0.5], [10.5, 0.5], [20.5, 0.5], [100.5, 7.9]])


def test_neighbours_of_a_better_patch_are_dropped_and_the_rest_fall_in_probability():
    found = detect_peaks(np.array([0.2, 0.9, 0.3, 0.5]), CENTRES, merge_l0=10.5)
    assert [found.row(index) for index in range(len(found))] == [(0.9, 10.0, 0.0), (0.5, 100.0, 7.0)]


def test_a_patch_at_exactly_the_distance_stays():
    assert len(detect_peaks(np.array([0.2, 0.9, 0.3, 0.5]), CENTRES, merge_l0=10.0)) == 4


def test_a_dropped_patch_drops_no_other():
    # The middle one falls to the left one; the right one is 20 away from it and stays.
    found = detect_peaks(np.array([0.9, 0.8, 0.7, 0.1]), CENTRES, merge_l0=15)
    assert found.probability.tolist() == [0.9, 0.7, 0.1]


def test_of_equal_patches_the_first_stands():
    assert detect_peaks(np.full(4, 0.5), CENTRES, merge_l0=15).x_l0.tolist() == [0, 20, 100]


def test_patches_at_or_below_the_least_are_none():
    assert len(detect_peaks(np.array([0.0, 0.1, 0.0, 0.2]), CENTRES, merge_l0=1, least=0.1)) == 1
    assert len(detect_peaks(np.zeros(4), CENTRES, merge_l0=1)) == 0


def test_arrays_must_belong_together():
    with pytest.raises(MetricError, match=r"got \(3,\) and \(4, 2\)"):
        detect_peaks(np.zeros(3), CENTRES, merge_l0=1)


@pytest.mark.parametrize("seed", range(5))
def test_against_the_plain_definition(seed):
    generator = np.random.default_rng(seed)
    probability, centres = np.round(generator.random(60), 2), np.floor(generator.random((60, 2)) * 50)
    wanted, left = [], sorted(range(60), key=lambda patch: (-probability[patch], patch))
    left = [patch for patch in left if probability[patch] > 0]
    while left:
        best = left.pop(0)
        wanted.append(probability[best])
        left = [patch for patch in left if np.linalg.norm(centres[patch] - centres[best]) >= 9]
    assert detect_peaks(probability, centres, merge_l0=9.0).probability.tolist() == wanted
