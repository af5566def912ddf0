"""Metrics of several classes: against scikit-learn, by hand, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics import CLASS_METRICS
from wsi_vmamba.metrics.base import MetricResult
from wsi_vmamba.metrics.classes import auc_by_class, balanced_accuracy, brier, class_panel, ece, macro_auc
from wsi_vmamba.metrics.classes_paired import macro_auc_paired


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Sixty slides of four classes whose probabilities say something, but not everything."""
    generator = np.random.default_rng(3)
    labels = np.r_[np.arange(4).repeat(5), generator.integers(0, 4, 40)]
    logits = generator.normal(size=(60, 4))
    logits[np.arange(60), labels] += 1.0
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True)


def test_macro_auc_and_balanced_accuracy_are_those_of_scikit_learn(drawn) -> None:
    labels, shares = drawn
    found = macro_auc(labels, shares, resamples=200)
    assert found.value == pytest.approx(
        roc_auc_score(labels, shares, multi_class="ovr", average="macro"), abs=1e-12
    )
    assert found.ci95[0] < found.value < found.ci95[1]
    each = [roc_auc_score(labels == k, shares[:, k]) for k in range(4)]
    assert [one.value for one in auc_by_class(labels, shares, resamples=200)] == pytest.approx(
        each, abs=1e-12
    )
    called = balanced_accuracy(labels, shares, resamples=200)
    assert called.value == pytest.approx(balanced_accuracy_score(labels, shares.argmax(axis=1)), abs=1e-12)
    assert called.counts.sum(axis=1).tolist() == np.bincount(labels).tolist()


def _area(positive: np.ndarray, scores: np.ndarray) -> float:
    """Share of the pairs that are in the right order, ties counting one half."""
    gaps = scores[positive][:, None] - scores[~positive]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def test_the_interval_is_that_of_resampling_each_class_apart(drawn) -> None:
    labels, shares = drawn
    found = macro_auc(labels, shares, resamples=400, seed=1)
    generator, values = np.random.default_rng(99), []
    for _ in range(400):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(4)]
        )
        values.append(np.mean([_area(labels[rows] == k, shares[rows, k]) for k in range(4)]))
    assert found.ci95 == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.02)


def test_brier_and_calibration_by_hand() -> None:
    labels = np.array([0, 1, 2])
    shares = np.array([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    missed = [0.04 + 0.01 + 0.01, 0.25 + 0.49 + 0.04, 0.0]
    assert brier(labels, shares, resamples=100).value == pytest.approx(np.mean(missed))
    # Called 0 at 0.8 (right), 0 at 0.5 (wrong) and 2 at 1.0 (right), each in a bin of its own.
    assert ece(labels, shares, resamples=100).value == pytest.approx((0.2 + 0.5 + 0.0) / 3)


def test_the_panel_counts_what_is_called_what() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    shares = np.eye(3)[[0, 1, 1, 1, 2, 0]] * 0.7 + 0.1
    panel = class_panel(labels, shares, classes=("a", "b", "c"), resamples=100, seed=0)
    found = panel.to_dict()
    assert found["balanced_accuracy"]["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert found["balanced_accuracy"]["value"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["balanced_accuracy"]["precision"] == pytest.approx([0.5, 2 / 3, 1.0])
    assert list(found["auc_by_class"]) == ["a", "b", "c"]


def test_every_class_metric_gives_a_result_on_equal_terms(drawn) -> None:
    for name in CLASS_METRICS:
        found = CLASS_METRICS.resolve(name)(*drawn, resamples=100, seed=0)
        assert isinstance(found, MetricResult)
        assert found.to_dict()["value"] == pytest.approx(found.value)


def test_a_class_with_one_slide_leaves_no_interval() -> None:
    shares = np.eye(3)[[0, 0, 1, 1, 2]]
    panel = class_panel(np.array([0, 0, 1, 1, 2]), shares, classes="abc", resamples=100, seed=0)
    assert np.isnan(panel.auc.ci95).all()
    assert any("c has one slide" in note for note in panel.notes)


@pytest.mark.parametrize(
    ("labels", "shares", "message"),
    [
        ([0, 1], [[0.5, 0.4, 0.1], [0.1, 0.8, 0.1]], "no slide is of class 2"),
        ([0, 1], [[0.5, 0.6], [0.1, 0.9]], "sum to 1"),
        ([0, 1], [[1.5, -0.5], [0.1, 0.9]], "sum to 1"),
        ([0, 1], [[np.nan, 1.0], [0.1, 0.9]], "sum to 1"),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], "whole numbers from 0 to 1"),
        ([0, 1, 1], [[0.5, 0.5], [0.1, 0.9]], "expected labels"),
    ],
)
def test_what_is_no_probability_of_classes_is_refused(labels, shares, message) -> None:
    with pytest.raises(MetricError, match=message):
        macro_auc(np.array(labels), np.array(shares), resamples=100)


def test_macro_aucs_are_compared_on_the_same_slides(drawn):
    labels, shares = drawn
    generator = np.random.default_rng(1)
    worse = np.exp(np.log(shares) * 0.3 + generator.normal(size=shares.shape))
    worse /= worse.sum(axis=1, keepdims=True)
    found = macro_auc_paired(labels, shares, worse, resamples=400, seed=0)
    wanted = [roc_auc_score(labels, one, multi_class="ovr", average="macro") for one in (shares, worse)]
    assert (found.auc_a, found.auc_b) == pytest.approx(tuple(wanted))
    assert found.difference == pytest.approx(wanted[0] - wanted[1])
    assert found.ci95[0] < found.difference < found.ci95[1]
    assert found.ci95_a == macro_auc(labels, shares, resamples=400, seed=0).ci95
    # A method and itself do not differ in any resample; exchanged, the interval is the mirrored one.
    assert macro_auc_paired(labels, shares, shares, resamples=400, seed=0).ci95 == (0.0, 0.0)
    mirrored = macro_auc_paired(labels, worse, shares, resamples=400, seed=0)
    assert mirrored.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    with pytest.raises(MetricError, match=r"\(slides, classes\) alike, got \(60, 4\) and \(60, 5\)"):
        macro_auc_paired(labels, shares, np.c_[shares, np.zeros(60)], resamples=400)
