"""AUC, DeLong and bootstrap against the published scores of CAMELYON16 and against their definitions."""

import csv
import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics import METRICS, delong_interval, delong_paired, roc_auc
from wsi_vmamba.metrics.auc import (
    auc,
    auc_statistic,
    average_precision,
    average_precision_statistic,
    precision_recall_points,
    roc_points,
)
from wsi_vmamba.metrics.base import MetricResult
from wsi_vmamba.metrics.bootstrap import resample
from wsi_vmamba.metrics.thresholds import recall_by_group

COLUMNS = ("pred_I", "pred_II", "pred_I_thres_07", "Method_II_noise_norm", "Method_II_noise_only", "Method_I")


@pytest.fixture(scope="module")
def published(golden):
    folder = golden / "scores"
    with (folder / "camelyon16_test_scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    scores = {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}
    groups = [row["category"] for row in rows]
    return labels, scores, groups, json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def small():
    generator = np.random.default_rng(7)
    labels = np.arange(40) % 3 == 0
    return labels.astype(int), np.round(generator.random(40) + 0.4 * labels, 1)


@pytest.mark.parametrize("column", COLUMNS)
def test_published_scores(published, column):
    labels, scores, _, expected = published
    want = expected["columns"][column]
    found = auc(labels, scores[column])
    assert found.value == pytest.approx(want["auc"], abs=1e-12)
    assert roc_auc(labels, scores[column]) == found.value
    assert found.delong.variance == pytest.approx(want["delong_variance"], abs=1e-10)
    assert found.delong.ci95_unclipped == pytest.approx(want["delong_ci95"], abs=1e-10)
    assert found.ci95 == pytest.approx(want["delong_ci95_clipped"], abs=1e-10)
    assert found.delong.ci95_logit == pytest.approx(want["logit_delong_ci95"], abs=1e-10)
    # The default resamples and seed are those of the reference, and the draws come in its order.
    assert found.bootstrap.ci95 == pytest.approx(want["bootstrap"]["ci95_percentile"], abs=0.003)
    assert found.bootstrap.se == pytest.approx(want["bootstrap"]["se"], abs=0.001)
    assert average_precision(labels, scores[column], resamples=100).value == pytest.approx(
        want["average_precision"], abs=1e-12
    )


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(COLUMNS, 2)))
def test_published_pairs(published, a, b):
    labels, scores, _, expected = published
    want = next(pair for pair in expected["pairs"] if (pair["a"], pair["b"]) == (a, b))
    found = delong_paired(labels, scores[a], scores[b])
    assert found.difference == pytest.approx(want["auc_difference"], abs=1e-12)
    assert found.variance == pytest.approx(want["variance_difference"], abs=1e-10)
    assert found.covariance == pytest.approx(want["covariance"], abs=1e-10)
    assert found.z == pytest.approx(want["z"], abs=1e-10)
    assert found.p_value == pytest.approx(want["p_two_sided"], abs=1e-10)


@pytest.mark.parametrize("column", COLUMNS)
def test_published_auc_by_size_of_metastasis(published, column):
    labels, scores, groups, expected = published
    macro, micro = recall_by_group(labels, scores[column], groups, threshold=0.5)
    assert (macro.group, macro.n, micro.group, micro.n) == ("macro", 22, "micro", 27)
    want = expected["columns"][column]
    assert macro.auc_against_negative == pytest.approx(want["auc_macro_vs_negative"], abs=1e-12)
    assert micro.auc_against_negative == pytest.approx(want["auc_micro_vs_negative"], abs=1e-12)


def test_delong_equals_its_definition_pair_by_pair(small):
    labels, scores = small
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    found = delong_interval(labels, scores)
    assert found.auc == pytest.approx(wins.mean(), abs=1e-14)
    assert found.variance == pytest.approx(variance, abs=1e-14)


def test_a_monotone_change_of_the_scores_changes_nothing(small):
    labels, scores = small
    assert delong_interval(labels, np.exp(3 * scores) - 7) == delong_interval(labels, scores)


def test_a_method_does_not_differ_from_itself(small):
    labels, scores = small
    found = delong_paired(labels, scores, 2 * scores)
    assert (found.z, found.p_value, found.difference) == (0.0, 1.0, 0.0)


def test_swapping_the_methods_turns_the_sign(small):
    labels, scores = small
    other = np.random.default_rng(3).random(40)
    one, two = delong_paired(labels, scores, other), delong_paired(labels, other, scores)
    assert one.z == pytest.approx(-two.z)
    assert one.p_value == pytest.approx(two.p_value)


def test_weighted_statistics_equal_scikit_learn_on_repeated_slides(small):
    labels, scores = small
    weights = next(resample(labels, resamples=50, seed=1))
    np.testing.assert_array_equal(weights[:, labels == 1].sum(axis=1), (labels == 1).sum())
    np.testing.assert_array_equal(weights[:, labels == 0].sum(axis=1), (labels == 0).sum())
    for row, ours_auc, ours_ap in zip(
        weights,
        auc_statistic(labels, scores, weights),
        average_precision_statistic(labels, scores, weights),
        strict=True,
    ):
        repeat = np.repeat(np.arange(len(labels)), row.astype(int))
        assert ours_auc == pytest.approx(roc_auc_score(labels[repeat], scores[repeat]), abs=1e-12)
        assert ours_ap == pytest.approx(average_precision_score(labels[repeat], scores[repeat]), abs=1e-12)


def test_perfect_separation_says_that_its_interval_has_no_width():
    found = auc([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], resamples=100)
    assert (found.value, found.ci95) == (1.0, (1.0, 1.0))
    assert "not certainty" in found.note
    assert found.delong.ci95_logit is None


def test_the_curves_end_where_they_must(small):
    labels, scores = small
    roc, pr = roc_points(labels, scores), precision_recall_points(labels, scores)
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(roc_auc(labels, scores), abs=1e-12)
    assert (pr.x[-1], pr.y[-1]) == (0, 1)
    assert json.dumps(roc.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_of_the_table_keeps_the_contract(name, small):
    labels, scores = small
    probabilities = scores / scores.max()
    one, two = (METRICS.resolve(name)(labels, probabilities, resamples=200, seed=5) for _ in range(2))
    assert isinstance(one, MetricResult)
    assert one == two
    content = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert content["value"] == one.value
    assert content["ci95"] == list(one.ci95)
    assert content["metric"] == name
    assert one.ci95[0] <= one.ci95[1]


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("single", [0, 1])
def test_one_slide_of_a_class_gives_every_metric_its_value_and_no_interval(name, single):
    labels = np.array([single, *[1 - single] * 3])
    scores = np.array([0.6, 0.1, 0.7, 0.2]) if single else np.array([0.4, 0.9, 0.3, 0.8])
    found = METRICS.resolve(name)(labels, scores, resamples=200, seed=5)
    twice = METRICS.resolve(name)(np.tile(labels, 2), np.tile(scores, 2), resamples=200, seed=5)
    assert found.value == pytest.approx(twice.value, abs=1e-12)  # slides that come twice change no metric
    assert np.isnan(found.ci95).all()
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (content["value"], content["ci95"]) == (found.value, [None, None])


def test_one_positive_slide_has_an_auc_with_a_note():
    found = auc([1, 0, 0, 0], [0.6, 0.1, 0.7, 0.2], resamples=100)
    assert found.value == pytest.approx(2 / 3)
    assert found.delong is None
    assert "one positive slide, so no metric has a 95 % interval" in found.note
    assert "one negative slide" in auc([0, 1, 1], [0.6, 0.1, 0.7], resamples=100).note
    with pytest.raises(MetricError, match="at least two slides of each class"):
        delong_interval([1, 0, 0], [0.6, 0.1, 0.7])


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "all 3 labels are 1"),
        ([0, 0], [0.1, 0.2], "all 2 labels are 0"),
        ([0, 1, 1], [0.1, float("nan"), 0.3], r"1 of 3 scores are not finite: row 1 \(nan\)"),
        ([0, 1], [0.1, float("inf")], r"row 1 \(inf\)"),
        ([0, 1, 1], [0.1, 0.2], "3 labels and 2 scores"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1, found 2"),
        (["normal", "tumor"], [0.1, 0.2], "found 'normal', 'tumor'"),
        ([0, 1], [[0.1, 0.9], [0.5, 0.5]], r"shape \(2, 2\)"),
        ([0, 1], ["a", "b"], "scores must be numbers"),
        ([], [], "non-empty"),
    ],
)
def test_unusable_input_is_refused_with_the_reason(name, labels, scores, message):
    with pytest.raises(MetricError, match=message):
        METRICS.resolve(name)(labels, scores)


def test_delong_needs_two_slides_of_each_class():
    assert roc_auc([0, 0, 1], [0.1, 0.6, 0.5]) == 0.5
    with pytest.raises(MetricError, match="1 positive and 2 negative"):
        delong_interval([0, 0, 1], [0.1, 0.6, 0.5])


def test_a_sure_difference_has_no_test():
    with pytest.raises(MetricError, match="does not apply"):
        delong_paired([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])


def test_too_few_resamples_are_refused(small):
    with pytest.raises(MetricError, match="at least 100"):
        auc(*small, resamples=99)
