"""Whether features know the slide rather than the tissue: of which group and class the nearest tiles are.

No labels are learned here. The robustness index is that of PathoROB (Koemen et al. 2025, arXiv:2507.17845): over the k
nearest neighbours of all tiles, same class and other group, against those and other class and same group. The ratio of
the two (de Jong et al. 2025, arXiv:2501.18055) is index / (1 - index).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from wsi_vmamba.probing.folds import Indices
from wsi_vmamba.probing.linear import Features, nearest, unit_rows

#: Tiles whose neighbours are looked for at a time.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What the nearest other tiles of all tiles are.

    Attributes:
        nearest_same_group: share of tiles whose nearest is of the same group, of any class.
        nearest_same_class_other_group: share whose nearest is of another group and of the same class.
        chance_same_group: the first share, if the nearest were any other tile.
        robustness_index: see above; None where neither kind of neighbour was found.
        k: neighbours of the robustness index.
    """

    nearest_same_group: float
    nearest_same_class_other_group: float
    chance_same_group: float
    robustness_index: float | None
    k: int


def measure_leakage(features: Features, labels: Indices, groups: NDArray[np.str_], *, k: int) -> Leakage:
    """Look at the neighbours of every tile, by cosine of the standardised features; none is its own neighbour."""
    _, group_of = np.unique(groups, return_inverse=True)
    near = neighbours_of(StandardScaler().fit_transform(features), k)
    same_class = labels[near] == labels[:, None]
    same_group = group_of[near] == group_of[:, None]
    right = int((same_class & ~same_group).sum())
    wrong = int((~same_class & same_group).sum())
    n, sizes = len(labels), np.bincount(group_of)
    return Leakage(
        nearest_same_group=float(same_group[:, 0].mean()),
        nearest_same_class_other_group=float((same_class & ~same_group)[:, 0].mean()),
        chance_same_group=float((sizes * (sizes - 1)).sum() / (n * (n - 1))),
        robustness_index=right / (right + wrong) if right + wrong else None,
        k=near.shape[1],
    )


def neighbours_of(features: Features, k: int) -> Indices:
    """Places (N, k) of the tiles most like each, itself left out, the nearest first."""
    units = unit_rows(features)
    parts = []
    for start in range(0, len(units), _ROWS):
        likeness = units[start : start + _ROWS] @ units.T
        likeness[np.arange(len(likeness)), start + np.arange(len(likeness))] = -np.inf
        parts.append(nearest(likeness, min(k, len(units) - 1)))
    return np.concatenate(parts)
