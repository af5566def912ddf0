"""The linear probe: standardised features and logistic regression, its penalty chosen within the training tiles."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from wsi_vmamba.probing.folds import Indices

Features = NDArray[np.float64]

#: Inverse penalties that are tried, scikit-learn's C.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Where there is nothing to choose by: too few tiles.
FIXED_C = 1e-2
INNER_FOLDS = 4
_MOST_STEPS = 2000
#: Smallest probability that the choice of the penalty takes seriously.
_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted probe: ``softmax(((x - mean) / scale) @ weight.T + bias)``.

    Attributes:
        mean: (D,) of the training tiles.
        scale: (D,) deviation of the training tiles, 1 where that is 0.
        weight: (classes, D).
        bias: (classes,); minus infinity of a class that was not among the training tiles.
        penalty_c: scikit-learn's C.
        chosen_by: how it was chosen: "groups", "tiles" or "fixed".
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty_c: float
    chosen_by: str

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Probabilities (N, classes) of features (N, D)."""
        logits = ((features - self.mean) / self.scale) @ self.weight.T + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares


def fit_probe(
    features: Features, labels: Indices, groups: NDArray[np.str_], *, n_classes: int, seed: int
) -> LinearProbe:
    """Fit a probe, the penalty chosen by cross-validation within these tiles, groups never split."""
    penalty_c, chosen_by = choose_penalty(features, labels, groups, seed=seed)
    return fit_with(features, labels, penalty_c, n_classes=n_classes, chosen_by=chosen_by)


def fit_with(
    features: Features,
    labels: Indices,
    penalty_c: float,
    *,
    n_classes: int,
    chosen_by: str = "fixed",
    scaler: StandardScaler | None = None,
) -> LinearProbe:
    """Fit a probe with a given penalty; ``scaler`` may have seen more tiles, without their labels."""
    scaler = scaler or StandardScaler().fit(features)
    present = np.unique(labels)
    weight = np.zeros((n_classes, features.shape[1]))
    bias = np.full(n_classes, -np.inf)
    bias[present] = 0.0
    if len(present) > 1:
        model = _fit(_model(penalty_c), scaler.transform(features), labels)
        if len(present) == 2:
            # scikit-learn has one line of weights for two classes: those of the second.
            weight[present[1]], bias[present[1]] = model.coef_[0], model.intercept_[0]
        else:
            weight[present], bias[present] = model.coef_, model.intercept_
    return LinearProbe(
        mean=scaler.mean_, scale=scaler.scale_, weight=weight, bias=bias, penalty_c=penalty_c, chosen_by=chosen_by
    )  # fmt: skip


def choose_penalty(
    features: Features, labels: Indices, groups: NDArray[np.str_], *, seed: int
) -> tuple[float, str]:
    """The C of `GRID` with the least log loss on tiles left out, each class counting the same.

    Groups are left out whole where every class is in at least two; else tiles of the same groups are, and where a class
    has a single tile C is fixed.

    Returns:
        C, and what was left out: "groups", "tiles" or "fixed".
    """
    splits, left_out = _inner_splits(labels, groups, seed=seed)
    if not splits:
        return FIXED_C, left_out
    losses = np.zeros(len(GRID))
    for train, test in splits:
        losses += _losses(features, labels, train, test)
    return GRID[int(np.argmin(losses))], left_out


def _inner_splits(
    labels: Indices, groups: NDArray[np.str_], *, seed: int
) -> tuple[list[tuple[Indices, Indices]], str]:
    present = np.unique(labels)
    fewest_groups = min(len(np.unique(groups[labels == one])) for one in present)
    fewest_tiles = int(np.bincount(labels)[present].min())
    if fewest_groups >= 2:
        by_groups = StratifiedGroupKFold(min(INNER_FOLDS, fewest_groups), shuffle=True, random_state=seed)
        splits = list(by_groups.split(labels, labels, groups))
        if all(len(np.unique(labels[train])) == len(present) for train, _ in splits):
            return splits, "groups"
    if fewest_tiles >= 2:
        by_tiles = StratifiedKFold(min(INNER_FOLDS, fewest_tiles), shuffle=True, random_state=seed)
        return list(by_tiles.split(labels, labels)), "tiles"
    return [], "fixed"


def _losses(features: Features, labels: Indices, train: Indices, test: Indices) -> NDArray[np.float64]:
    """Log loss of the tiles left out, (C of the grid,), each class of all tiles counting the same."""
    scaler = StandardScaler().fit(features[train])
    seen, unseen = scaler.transform(features[train]), scaler.transform(features[test])
    weight_of = 1 / np.maximum(np.bincount(labels), 1)
    losses = []
    model = _model(GRID[0])
    for penalty_c in GRID:  # rising, so that each starts where the one before ended
        model.set_params(C=penalty_c)
        shares = _fit(model, seen, labels[train]).predict_proba(unseen)
        right = shares[np.arange(len(test)), np.searchsorted(model.classes_, labels[test])]
        losses.append(-(np.log(np.maximum(right, _FLOOR)) * weight_of[labels[test]]).sum())
    return np.array(losses)


def _model(penalty_c: float) -> LogisticRegression:
    return LogisticRegression(C=penalty_c, class_weight="balanced", max_iter=_MOST_STEPS, warm_start=True)


def _fit(model: LogisticRegression, features: Features, labels: Indices) -> LogisticRegression:
    with warnings.catch_warnings():
        # With the weakest penalty of the grid separable tiles take long, and what came of it is judged like the others.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def standardise(features: Features, train: Indices) -> Features:
    """All features in the standard units of the training tiles."""
    scaled: Features = StandardScaler().fit(features[train]).transform(features)
    return scaled


def unit_rows(features: Features) -> Features:
    """Rows of length one, so that products are cosines; a row of zeros stays one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units: Features = features / np.where(lengths > 0, lengths, 1)
    return units


def vote(
    features: Features, labels: Indices, train: Indices, test: Indices, *, k: int, n_classes: int
) -> NDArray[np.float64]:
    """Shares (tests, classes) of the classes among the ``k`` nearest training tiles, by cosine of standard units."""
    units = unit_rows(standardise(features, train))
    near = nearest(units[test] @ units[train].T, k)
    votes = labels[train][near]
    counted: NDArray[np.float64] = (votes[..., None] == np.arange(n_classes)).mean(axis=1)
    return counted


def nearest(likeness: Features, k: int) -> Indices:
    """Places of the ``k`` largest of each row, the largest first."""
    k = min(k, likeness.shape[1])
    rows = np.arange(len(likeness))[:, None]
    # Only the largest are put in order; rising places first, so that of equal ones the first stays first.
    largest = np.sort(np.argpartition(-likeness, k - 1, axis=1)[:, :k], axis=1)
    found: Indices = largest[rows, np.argsort(-likeness[rows, largest], axis=1, kind="stable")]
    return found


def spread_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation (n - 1) of some numbers."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
