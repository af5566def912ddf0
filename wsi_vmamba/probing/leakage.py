"""Whether features know the slide rather than the tissue: of which group and class the nearest tiles are.

Nothing is learned here: features are as the encoder gives them, compared by cosine. The robustness index is that of
PathoROB (Kömen et al. 2025, arXiv:2507.17845): among the k nearest neighbours of all tiles, those of the same class and
another origin, as a share of those and the ones of another class and the same origin. Above 0.5 tissue outweighs
origin.
The ratio of de Jong et al. 2025 (arXiv:2501.18055) is index / (1 - index).
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import numpy as np

from wsi_vmamba.probing.folds import Indices, Task
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
        robustness_index: with groups as origins; None where neither kind of neighbour was found.
        site_robustness_index: with sites as origins, neighbours of the same group left out; None without sites.
        k: neighbours of both.
        croma: what the package croma finds, where it is installed; else empty.
    """

    nearest_same_group: float
    nearest_same_class_other_group: float
    chance_same_group: float
    robustness_index: float | None
    site_robustness_index: float | None
    k: int
    croma: dict[str, float | str]


def measure_leakage(features: Features, task: Task, *, k: int) -> Leakage:
    """Look at the neighbours of every tile; a tile is no neighbour of itself."""
    _, group_of = np.unique(task.groups, return_inverse=True)
    near = neighbours_of(features, k)
    same_group = group_of[near[:, 0]] == group_of
    same_class = task.labels[near[:, 0]] == task.labels
    n, sizes = len(task.labels), np.bincount(group_of)
    return Leakage(
        nearest_same_group=float(same_group.mean()),
        nearest_same_class_other_group=float((same_class & ~same_group).mean()),
        chance_same_group=float((sizes * (sizes - 1)).sum() / (n * (n - 1))),
        robustness_index=robustness_index(near, task.labels, group_of),
        site_robustness_index=_of_sites(features, task, group_of, k),
        k=near.shape[1],
        croma=_croma(features, task, k, version=version) if (version := _croma_version()) else {},
    )


def robustness_index(near: Indices, labels: Indices, origins: Indices) -> float | None:
    """See the head of this file; ``near`` is (N, k), -1 where there is no neighbour."""
    there = near >= 0
    same_class = labels[near] == labels[:, None]
    same_origin = origins[near] == origins[:, None]
    right = int((there & same_class & ~same_origin).sum())
    wrong = int((there & ~same_class & same_origin).sum())
    return right / (right + wrong) if right + wrong else None


def neighbours_of(features: Features, k: int, *, leave_out: Indices | None = None) -> Indices:
    """Places (N, k) of the tiles most like each, itself left out, the nearest first.

    Args:
        features: (N, D).
        k: how many.
        leave_out: (N,) numbers; tiles of the same number are no neighbours, and -1 fills what is missing then.
    """
    units = unit_rows(features)
    origin = np.arange(len(units)) if leave_out is None else leave_out
    parts = []
    for start in range(0, len(units), _ROWS):
        likeness = units[start : start + _ROWS] @ units.T
        likeness[origin[start : start + _ROWS, None] == origin] = -np.inf
        found = nearest(likeness, min(k, len(units) - 1))
        parts.append(np.where(np.take_along_axis(likeness, found, axis=1) > -np.inf, found, -1))
    return np.concatenate(parts)


def _of_sites(features: Features, task: Task, group_of: Indices, k: int) -> float | None:
    if task.sites is None:
        return None
    _, site_of = np.unique(task.sites, return_inverse=True)
    return robustness_index(neighbours_of(features, k, leave_out=group_of), task.labels, site_of)


def _croma_version() -> str:
    """Version of the package croma; empty where it is not installed, as a mere folder of that name is not."""
    try:
        return importlib.metadata.version("croma")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _croma(features: Features, task: Task, k: int, *, version: str) -> dict[str, float | str]:
    """Robustness by the package croma: with sites as origins, where they are known, else with groups."""
    import croma
    import pandas as pd

    single = np.arange(len(task.labels)).astype(str)
    origins = task.groups if task.sites is None else task.sites
    manifest = pd.DataFrame(
        {
            "sample_id": single,
            "image_path": single,
            "label": task.labels.astype(str),
            # What it leaves out among the neighbours of a tile; where groups are the origins, only the tile itself.
            "group_id": single if task.sites is None else task.groups,
            "origin": origins,
        }
    )
    found: dict[str, float | str] = {"version": version}
    found["origin"] = "group" if task.sites is None else "site"
    for name, index in (("ri", croma.RI), ("mari", croma.MaRI)):
        result = index.compute(features, manifest, confounder_column="origin", k_candidates=[k])
        found[name], found[f"{name}_support"] = float(result.value), float(result.support)
    try:
        margin = croma.CRoMa.compute(features, manifest, confounder_column="origin")
    except (
        RuntimeError
    ) as error:  # it needs neighbours of both kinds for every tile, and says where they lack
        found["croma_undefined"] = str(error)
    else:
        found.update(croma=float(margin.value), croma_worst_tenth=float(margin.ltm_alpha))
    return {name: value for name, value in found.items() if isinstance(value, str) or np.isfinite(value)}
