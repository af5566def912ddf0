"""Ranks and curves against scikit-learn and SciPy, which the package itself does not wait for."""

import math

import numpy as np
import pytest
from scipy.stats import norm, rankdata
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from wsi_vmamba.metrics.auc import precision_recall_points, roc_auc, roc_points
from wsi_vmamba.metrics.curves import midranks
from wsi_vmamba.metrics.delong import delong_paired


def _cases():
    for seed in range(6):
        generator = np.random.default_rng(seed)
        labels = np.r_[0, 1, generator.integers(0, 2, 3 + 40 * seed)]
        # With ties: few values, and one case in which all are equal.
        yield labels, np.round(generator.normal(size=len(labels)) + labels, seed % 3) * (seed != 3)


CASES = [pytest.param(labels, scores, id=str(seed)) for seed, (labels, scores) in enumerate(_cases())]


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_area_and_corners_of_the_roc_curve(labels, scores):
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    found = roc_points(labels, scores)
    for got, wanted in zip(
        (found.x, found.y, found.thresholds), roc_curve(labels, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_points_of_the_precision_recall_curve(labels, scores):
    found = precision_recall_points(labels, scores)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(found.y, precision, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.x, recall, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(found.thresholds, np.append(thresholds, np.inf))


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_equal_scores_share_the_mean_of_their_ranks(labels, scores):
    rows = np.stack([scores, -scores, scores**2])
    np.testing.assert_array_equal(midranks(rows), rankdata(rows, axis=1))


def test_the_p_value_is_that_of_the_normal_distribution():
    generator = np.random.default_rng(5)
    labels = np.arange(60) % 2
    noise = generator.normal(size=(2, 60))
    for gap in (0.0, 1.0, 8.0):
        found = delong_paired(labels, gap * labels + noise[0], noise[1])
        assert math.isclose(found.p_value, 2 * norm.sf(abs(found.z)), rel_tol=1e-13)
