"""Quadratic weighted kappa: by hand, and against scikit-learn as the organisers of CAMELYON17 call it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.kappa import kappa, kappa_of_calls


def test_by_hand() -> None:
    # Observed: one step of one in four. Chance: mean of i² (0+0+1+4)/4, of j² (0+1+1+4)/4, means 3/4 and 1.
    by_chance = 5 / 4 + 6 / 4 - 2 * (3 / 4) * 1
    assert kappa_of_calls([0, 0, 1, 2], [0, 1, 1, 2], resamples=100).value == pytest.approx(
        1 - (1 / 4) / by_chance
    )


@pytest.mark.parametrize("seed", range(20))
def test_as_scikit_learn_with_the_whole_scale(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, called = generator.integers(0, 5, 30), generator.integers(0, 5, 30)
    if seed % 2:  # stages that nobody has, of either kind
        labels, called = labels.clip(1, 4), called.clip(0, 3)
    expected = cohen_kappa_score(labels, called, labels=range(5), weights="quadratic")
    assert kappa_of_calls(labels, called, resamples=100).value == pytest.approx(expected, abs=1e-12)


def test_of_probabilities_it_is_that_of_the_most_probable_class() -> None:
    labels, called = np.array([0, 1, 2, 2, 0, 1]), np.array([0, 2, 2, 1, 0, 1])
    found = kappa(labels, np.eye(3)[called] * 0.4 + 0.2, resamples=100)
    assert found.value == pytest.approx(cohen_kappa_score(labels, called, weights="quadratic"), abs=1e-12)
    assert found.ci95[0] <= found.value <= found.ci95[1]


def test_all_alike_is_not_defined_and_fractions_are_refused() -> None:
    assert np.isnan(kappa_of_calls([2, 2, 2], [2, 2, 2], resamples=100).value)
    with pytest.raises(MetricError, match="whole numbers"):
        kappa_of_calls([0, 1], [0.5, 1.0], resamples=100)
    with pytest.raises(MetricError, match="expected labels and calls"):
        kappa_of_calls([0, 1], [0, 1, 2], resamples=100)
