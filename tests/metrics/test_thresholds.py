"""Metrics at a threshold, and calibration, by hand."""

import json

import numpy as np
import pytest

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import wilson_interval
from wsi_vmamba.metrics.calibration import brier, ece, reliability_bins
from wsi_vmamba.metrics.thresholds import (
    at_threshold,
    choose_threshold,
    recall_by_group,
    sensitivity_at_specificity,
)

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.7, 0.2, 0.6, 0.8, 0.9]


def test_confusion_counts_and_what_follows_from_them():
    found = at_threshold(LABELS, SCORES, threshold=0.5, resamples=500)
    assert (found.true_positive, found.false_positive, found.true_negative, found.false_negative) == (
        3,
        1,
        3,
        1,
    )
    assert (found.sensitivity, found.specificity, found.value) == (0.75, 0.75, 0.75)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["confusion"] == {"tp": 3, "fp": 1, "tn": 3, "fn": 1}
    assert (content["accuracy"], content["f1"], content["positive_predictive_value"]) == (0.75, 0.75, 0.75)
    assert found.ci95[0] < 0.75 < found.ci95[1]


def test_a_score_at_the_threshold_is_called():
    assert at_threshold(LABELS, SCORES, threshold=0.7, resamples=100).false_positive == 1


def test_a_share_without_denominator_is_null():
    assert (
        at_threshold(LABELS, SCORES, threshold=2, resamples=100).to_dict()["positive_predictive_value"]
        is None
    )


def test_the_threshold_lies_half_way_below_the_best_cut():
    # Calling 0.6 and above finds 3 of 4 with 1 of 4 false; no other cut has a higher balanced accuracy.
    assert choose_threshold(LABELS, SCORES) == pytest.approx((0.6 + 0.3) / 2)


def test_of_equal_cuts_the_more_sensitive_is_taken():
    assert choose_threshold([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(0.15)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better_than_the_chosen_one(seed):
    generator = np.random.default_rng(seed)
    labels, scores = np.arange(30) % 2, np.round(generator.random(30), 1)

    def balanced(threshold):
        called = scores >= threshold
        return (called[labels == 1].mean() + (~called)[labels == 0].mean()) / 2

    assert balanced(choose_threshold(labels, scores)) == pytest.approx(max(map(balanced, [*scores, 2])))


def test_chosen_threshold_works_where_the_best_cut_calls_everything():
    assert choose_threshold([1, 0], [0.1, 0.9]) == 0.1


@pytest.mark.parametrize(("specificity", "sensitivity"), [(0.75, 0.75), (1.0, 0.5), (0.5, 0.75), (0.25, 1.0)])
def test_sensitivity_at_specificity(specificity, sensitivity):
    found = sensitivity_at_specificity(LABELS, SCORES, specificity=specificity, resamples=100)
    assert found.value == sensitivity
    assert found.to_dict()["specificity"] == specificity


def test_ninety_percent_of_eighty_allows_eight_false_calls():
    labels = np.r_[np.zeros(80), 1]
    for positive_score, sensitivity in ((71.5, 1.0), (70.5, 0.0)):
        scores = np.r_[np.arange(80), positive_score]
        assert sensitivity_at_specificity(labels, scores, specificity=0.9, resamples=100).value == sensitivity


def test_recall_by_group():
    groups = ["x"] * 4 + ["micro", "micro", "macro", "macro"]
    macro, micro = recall_by_group(LABELS, SCORES, groups, threshold=0.5)
    assert (macro.group, macro.n, macro.found, macro.recall, macro.auc_against_negative) == (
        "macro",
        2,
        2,
        1.0,
        1.0,
    )
    assert (micro.group, micro.n, micro.found, micro.recall) == ("micro", 2, 1, 0.5)
    assert micro.auc_against_negative == pytest.approx((1.5 + 3) / 8)


def test_wilson_interval_against_its_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_calibration_by_hand():
    labels, scores = [0, 1, 0, 1], [0.05, 0.05, 0.95, 1.0]
    assert brier(labels, scores, resamples=100).value == pytest.approx((0.05**2 + 0.95**2 + 0.95**2) / 4)
    # Lowest bin: 0.05 against 1/2; highest: 0.975 against 1/2.
    assert ece(labels, scores, resamples=100).value == pytest.approx((0.45 + 0.475) / 2)
    low, high = reliability_bins(labels, scores)
    assert (low.low, low.high, low.n, low.mean_probability, low.positive_share) == (0.0, 0.1, 2, 0.05, 0.5)
    assert (high.low, high.high, high.n) == (0.9, 1.0, 2)


def test_a_probability_on_an_edge_belongs_to_the_bin_above():
    (only,) = reliability_bins([0, 1], [0.3, 0.3])
    assert only.low == 0.3


@pytest.mark.parametrize("metric", [brier, ece, reliability_bins])
def test_logits_are_no_probabilities(metric):
    with pytest.raises(MetricError, match="pass the sigmoid or softmax"):
        metric([0, 1], [-2.0, 3.0])
