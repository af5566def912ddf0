"""Principal components as colours: alike patches alike, unlike patches apart, the same picture every time."""

import numpy as np
import pytest

from wsi_vmamba.errors import UsageError
from wsi_vmamba.report.components import principal_colours

CENTRES = np.array([[9.0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0], [0, 0, 9.0, 0, 0], [0, 0, 0, 9.0, 0]])


def test_groups_of_patches_get_colours_of_their_own():
    group = np.repeat(np.arange(4), 50)
    features = CENTRES[group] + np.random.default_rng(0).normal(0, 0.1, (200, 5))
    colours, explained = principal_colours(features)
    assert colours.shape == (200, 3)
    assert explained.sum() == pytest.approx(1.0, abs=0.01)
    within = max(np.ptp(colours[group == g], axis=0).max() for g in range(4))
    means = np.stack([colours[group == g].mean(axis=0) for g in range(4)])
    between = min(np.linalg.norm(means[a] - means[b]) for a in range(4) for b in range(a))
    assert within < 0.15
    assert between > 0.5


def test_the_first_component_follows_the_direction_of_most_variance():
    along = np.linspace(-1, 1, 101)
    features = np.outer(along, [0.0, 3.0, 0.0]) + np.outer(np.cos(40 * along), [0.1, 0.0, 0.0])
    colours, explained = principal_colours(features.astype(np.float16))
    assert explained[0] > 0.99
    # Between the first and the last percentile, red rises evenly from 0 to 1 with the feature.
    np.testing.assert_allclose(colours[1:100, 0], np.linspace(0, 1, 99), atol=0.02)


def test_signs_do_not_depend_on_the_order_of_the_patches():
    features = np.random.default_rng(1).normal(size=(60, 6))
    order = np.random.default_rng(2).permutation(60)
    np.testing.assert_allclose(principal_colours(features[order])[0], principal_colours(features)[0][order])


def test_equal_patches_give_one_colour_and_no_division_by_zero():
    colours, explained = principal_colours(np.full((5, 4), 7.0))
    assert (colours == 0.5).all()
    assert (explained == 0).all()


@pytest.mark.parametrize("shape", [(2, 8), (8, 2)])
def test_too_few_patches_or_features_are_refused(shape):
    with pytest.raises(UsageError, match=f"got {shape[0]} patches of {shape[1]}"):
        principal_colours(np.zeros(shape))
