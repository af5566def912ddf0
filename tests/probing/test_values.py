"""What probing measures, on features whose answer is known without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from wsi_vmamba.probing.folds import Fold, Task
from wsi_vmamba.probing.intervals import compare_encoders, draw, how_drawn
from wsi_vmamba.probing.judge import judge_features
from wsi_vmamba.probing.leakage import measure_leakage, neighbours_of, robustness_index
from wsi_vmamba.probing.linear import choose_penalty, fit_probe, fit_with, nearest
from wsi_vmamba.probing.scores import Draws, Predictions, balanced_accuracy, group_auc, macro_auc, once


def task_of(labels: np.ndarray, groups: np.ndarray, sites: np.ndarray | None = None) -> Task:
    folds = tuple(
        Fold(name=str(g), train=np.flatnonzero(groups != g), test=np.flatnonzero(groups == g))
        for g in np.unique(groups)
    )
    names = tuple(f"class {n}" for n in range(labels.max() + 1))
    return Task(classes=names, labels=labels, groups=groups, sites=sites, folds=folds, scheme="made")


def gaussians(
    rng: np.random.Generator, *, n: int, groups: int, apart: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two normal clouds in 8 dimensions, ``apart`` deviations from each other along one of them."""
    labels = np.arange(n) % 2
    features = rng.normal(size=(n, 8))
    features[:, 3] += apart * labels
    return features, labels, np.array([f"g{place}" for place in np.arange(n) // 2 % groups])


def test_the_auc_of_two_gaussians_is_what_theory_says() -> None:
    # The best line between two unit clouds d apart ranks a pair right with probability Phi(d / sqrt 2).
    features, labels, groups = gaussians(np.random.default_rng(10), n=2000, groups=5, apart=1.5)
    judged = judge_features(features, task_of(labels, groups), neighbours=20, few_shot_draws=5, seed=0)
    expected = norm.cdf(1.5 / math.sqrt(2))
    (found,) = compare_encoders([judged.predictions], groups, resamples=300, seed=0)
    auc = found.metrics["auc"]
    assert auc.value == pytest.approx(expected, abs=0.02)
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low < expected < auc.high
    assert found.metrics["balanced_accuracy"].value == pytest.approx(norm.cdf(0.75), abs=0.02)
    aucs = [value for value in judged.fold_aucs if value is not None]
    assert np.mean(aucs) == pytest.approx(expected, abs=0.02)
    curve = [point.auc for point in judged.few_shot]
    assert [point.shots for point in judged.few_shot] == [1, 2, 4, 8, 16, 32]
    assert curve[0] < curve[2] < curve[5] < expected + 0.01


def test_features_that_say_nothing_are_at_chance() -> None:
    features, labels, groups = gaussians(np.random.default_rng(1), n=1000, groups=8, apart=0.0)
    judged = judge_features(features, task_of(labels, groups), neighbours=20, few_shot_draws=0, seed=0)
    (found,) = compare_encoders([judged.predictions], groups, resamples=300, seed=0)
    assert found.metrics["auc"].value == pytest.approx(0.5, abs=0.04)
    assert found.metrics["neighbour_accuracy"].value == pytest.approx(0.5, abs=0.04)
    assert judged.few_shot == []


def test_weighted_metrics_are_those_of_tiles_repeated() -> None:
    rng = np.random.default_rng(2)
    labels, shares = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    draws = Draws(weights=weights, copies=None, group_of=np.arange(60))
    for row, auc, accuracy in zip(
        weights, macro_auc(labels, shares, draws), balanced_accuracy(labels, shares, draws), strict=True
    ):
        repeated = np.repeat(np.arange(60), row.astype(int))
        drawn, of_drawn = labels[repeated], shares[repeated]
        assert auc == pytest.approx(
            np.mean([roc_auc_score(drawn == one, of_drawn[:, one]) for one in range(3)])
        )
        right = of_drawn.argmax(axis=1) == drawn
        assert accuracy == pytest.approx(np.mean([right[drawn == one].mean() for one in range(3)]))


def test_two_copies_of_a_group_are_not_compared_with_each_other() -> None:
    # Within each group the classes are told apart, between groups they are not: 2 of 3 groups drawn, one of them twice.
    labels, groups = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2])
    scores = np.array([0.1, 0.2, 0.5, 0.6, 0.8, 0.9])
    shares = np.stack([1 - scores, scores], axis=1)
    copies = np.array([[2.0, 1.0, 0.0]])
    draws = Draws(weights=copies[:, groups], copies=copies, group_of=groups)
    # Pairs within: 2 of the first group and 1 of the second, all right. Between: 2 positives of the first are below the
    # negative of the second (2 wrong), the positive of the second is above 2 negatives (2 right).
    assert macro_auc(labels, shares, draws)[0] == pytest.approx((3 + 2) / (3 + 4))
    assert macro_auc(labels, shares, once(6))[0] == pytest.approx(6 / 9)


def test_the_mean_of_group_resamples_is_not_above_the_value() -> None:
    """Levels that differ between groups make pairs within groups easier; resampling must not count more of them."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 20)
    labels = np.tile([0, 1], 120)
    scores = rng.normal(size=12)[groups] * 3 + labels + rng.normal(size=240) * 0.5
    shares = np.stack([-scores, scores], axis=1)
    value = macro_auc(labels, shares, once(240))[0]
    names = np.array([f"g{g:02}" for g in groups])
    resampled = np.concatenate(
        [macro_auc(labels, shares, one) for one in draw(names, resamples=4000, seed=0)]
    )
    assert resampled.mean() == pytest.approx(value, abs=0.005)


def test_the_auc_within_groups_does_not_mind_levels_of_groups() -> None:
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(6), 40)
    labels = np.tile([0, 1], 120)
    scores = 100 * groups + labels + rng.normal(size=240)
    shares = np.stack([-scores, scores], axis=1)
    own = [roc_auc_score(labels[groups == g], scores[groups == g]) for g in range(6)]
    said = Predictions(labels=labels, linear=shares, neighbours=shares)
    names = np.array([f"g{g}" for g in groups])
    metrics = compare_encoders([said], names, resamples=500, seed=0)[0].metrics
    assert metrics["group_auc"].value == pytest.approx(np.mean(own))
    assert metrics["auc"].value is not None
    assert metrics["auc"].value < 0.6
    low, high = metrics["group_auc"].low, metrics["group_auc"].high
    assert low is not None
    assert high is not None
    assert min(own) < low < np.mean(own) < high < max(own)
    copies = np.array([[2.0, 0, 0, 1, 3, 0]])
    drawn = Draws(weights=copies[:, groups], copies=copies, group_of=groups)
    assert group_auc(labels, shares, drawn)[0] == pytest.approx((2 * own[0] + own[3] + 3 * own[4]) / 6)
    alone = compare_encoders([said], np.arange(240).astype(str), resamples=100, seed=0)[0].metrics
    assert alone["group_auc"].value is None


def test_the_interval_of_a_difference_is_paired() -> None:
    rng = np.random.default_rng(4)
    n = 1000
    labels, groups = np.arange(n) % 2, np.array([f"g{one // 20}" for one in range(n)])
    score = labels + rng.normal(size=n)
    better = score + 0.3 * labels

    def said(values: np.ndarray) -> Predictions:
        shares = np.stack([-values, values], axis=1)
        return Predictions(labels=labels, linear=shares, neighbours=shares)

    same = [said(score), said(score), said(better)]
    first, again, other = compare_encoders(same, groups, resamples=1000, seed=0)
    assert first.differences == {}
    twin = again.differences["auc"]
    assert (twin.value, twin.low, twin.high) == (0, 0, 0)
    difference = other.differences["auc"]
    assert difference.value == pytest.approx(
        roc_auc_score(labels, better) - roc_auc_score(labels, score), abs=1e-12
    )
    assert difference.excludes_zero
    assert difference.high is not None
    assert difference.low is not None
    own = other.metrics["auc"]
    assert own.high is not None
    assert own.low is not None
    # The two share their noise, so that their difference is known much better than either.
    assert difference.high - difference.low < (own.high - own.low) / 2


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Groups have levels of their own: an interval from single tiles would be far too narrow."""
    truth = norm.cdf(1 / math.sqrt(2 * (1 + 0.5**2)))
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(20), 10)
        labels = np.tile([0, 1], 100)
        scores = labels + rng.normal(size=200) + 0.5 * rng.normal(size=20)[groups]
        shares = np.stack([-scores, scores], axis=1)
        said = Predictions(labels=labels, linear=shares, neighbours=shares)
        names = np.array([f"g{g}" for g in groups])
        estimate = compare_encoders([said], names, resamples=300, seed=seed)[0].metrics["auc"]
        assert estimate.low is not None
        assert estimate.high is not None
        covered.append(estimate.low < truth + 0.005 and estimate.high > truth - 0.005)
    assert 0.85 <= np.mean(covered) <= 1.0


def test_with_few_groups_tiles_are_drawn_within_them() -> None:
    groups = np.array(["a"] * 6 + ["b"] * 4)
    assert how_drawn(groups) == "tiles within groups"
    (drawn,) = list(draw(groups, resamples=50, seed=0))
    assert drawn.copies is None
    assert (drawn.weights[:, :6].sum(axis=1) == 6).all()
    assert (drawn.weights[:, 6:].sum(axis=1) == 4).all()
    assert how_drawn(np.array(list("abcde"))) == "groups"


def test_leakage_is_what_is_counted_by_hand() -> None:
    # Angles on a circle, in degrees: slide A at 0 and 1 (tumour, normal), slide B at 10, 12, 13 (tumour,
    # normal, tumour).
    degrees = np.array([0.0, 1.0, 10.0, 12.0, 13.0])
    features = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * [
        [3.0],
        [1],
        [7],
        [2],
        [5],
    ]
    labels = np.array([1, 0, 1, 0, 1])
    groups = np.array(["A", "A", "B", "B", "B"])
    found = measure_leakage(features, task_of(labels, groups), k=2)
    # Nearest two: 0 -> 1, 10; 1 -> 0, 10; 10 -> 12, 13; 12 -> 13, 10; 13 -> 12, 10.
    assert neighbours_of(features, 2).tolist() == [[1, 2], [0, 2], [3, 4], [4, 2], [3, 2]]
    assert found.nearest_same_group == 1.0
    assert found.nearest_same_class_other_group == 0.0
    assert found.chance_same_group == pytest.approx((2 * 1 + 3 * 2) / (5 * 4))
    # Same class and other slide: 0 -> 10. Other class and same slide: 0 -> 1, 1 -> 0, 10 -> 12, 12 -> 13, 12 -> 10,
    # 13 -> 12.
    assert found.robustness_index == pytest.approx(1 / 7)
    assert found.site_robustness_index is None


def test_with_sites_neighbours_of_the_same_slide_do_not_count() -> None:
    degrees = np.array([0.0, 1.0, 3.0, 20.0])
    features = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    labels, groups = np.array([0, 1, 1, 0]), np.array(["A", "A", "B", "C"])
    sites = np.array(["x", "x", "x", "y"])
    found = measure_leakage(features, task_of(labels, groups, sites), k=1)
    # 0 -> 3 deg (other class, same site); 1 -> 3 deg (same, same); 3 -> 1 deg (same, same); 20 -> 3 deg (other, other).
    assert found.site_robustness_index == 0.0
    near = neighbours_of(features, 3, leave_out=np.array([0, 0, 1, 2]))
    assert near.tolist() == [[2, 3, -1], [2, 3, -1], [1, 0, 3], [2, 1, 0]]
    # With two neighbours: 0 -> 20 deg is of its class and another site, and so is 20 -> 0 deg with three.
    assert robustness_index(near, labels, np.array([0, 0, 0, 1])) == pytest.approx(2 / (2 + 2))


def test_the_nearest_come_in_order() -> None:
    likeness = np.array([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    assert nearest(likeness, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    assert nearest(likeness, 9).tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]


def test_a_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(size=(300, 4)) * [1, 10, 0.1, 1] + labels[:, None]
    for names in (labels, np.minimum(labels, 1)):
        own = fit_with(features, names, 0.1, n_classes=int(names.max()) + 1).predict(features)
        theirs = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=999)
        )
        np.testing.assert_allclose(own, theirs.fit(features, names).predict_proba(features), atol=1e-5)


def test_a_class_that_was_not_learned_is_never_predicted() -> None:
    rng = np.random.default_rng(6)
    labels = np.array([0, 2] * 20)
    features = rng.normal(size=(40, 3)) + labels[:, None]
    shares = fit_with(features, labels, 0.1, n_classes=3).predict(features)
    assert (shares[:, 1] == 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares.argmax(axis=1) == labels).mean() > 0.9
    alone = fit_with(features[labels == 2], labels[labels == 2], 0.1, n_classes=3)
    assert alone.predict(features).tolist() == [[0, 0, 1]] * 40


def test_the_penalty_is_chosen_on_other_groups_where_there_are_some() -> None:
    rng = np.random.default_rng(7)
    n_groups, each = 8, 30
    groups = np.repeat(np.arange(n_groups), each)
    labels = np.tile([0, 1], n_groups * each // 2)
    # One feature is the tissue; 40 are a signature of slide and class together, which tells all within a slide only.
    signature = rng.normal(size=(n_groups, 2, 40))[groups, labels]
    features = np.column_stack([labels + rng.normal(size=len(labels)), 3 * signature])
    names = np.array([f"g{g}" for g in groups])
    by_groups, how = choose_penalty(features, labels, names, seed=0)
    assert how == "groups"
    by_tiles, how = choose_penalty(features, labels, np.full(len(labels), "one"), seed=0)
    assert how == "tiles"
    assert by_groups < by_tiles
    assert choose_penalty(features[:2], labels[:2], names[:2], seed=0) == (0.01, "fixed")
    assert fit_probe(features, labels, names, n_classes=2, seed=0).penalty_c == by_groups
