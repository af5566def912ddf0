"""Which tiles are learned from and which are judged: groups are never split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from wsi_vmamba.errors import DatasetError
from wsi_vmamba.probing.tiles import ProbeTiles

#: Up to so many groups each is left out in turn; of more there are five folds.
MOST_LEFT_OUT_IN_TURN = 10
OUTER_FOLDS = 5
_LISTED = 5

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A division of the tiles.

    Attributes:
        name: the group that is left out, or the number of the fold.
        train: places of the tiles that are learned from.
        test: places of those that are judged.
    """

    name: str
    train: Indices
    test: Indices


@dataclass(frozen=True, kw_only=True)
class Task:
    """All tiles with their labels and how they are divided.

    Attributes:
        classes: names.
        labels: (N,) place of each tile's class.
        groups: (N,) of each tile.
        sites: (N,) hospital or scanner of each tile; None where unknown.
        folds: each tile is judged in at most one.
        scheme: how they were divided, in words.
    """

    classes: tuple[str, ...]
    labels: Indices
    groups: NDArray[np.str_]
    sites: NDArray[np.str_] | None
    folds: tuple[Fold, ...]
    scheme: str

    @property
    def judged(self) -> Indices:
        """Places of all tiles that are judged, rising."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))


def cross_validation(tiles: ProbeTiles, *, seed: int) -> Task:
    """Leave each group out in turn, or five folds of groups where there are more than ten.

    Raises:
        DatasetError: there are fewer than two groups, or a class is in one group only.
    """
    labels, groups = tiles.labels, tiles.groups
    names = np.unique(groups)
    if len(names) < 2:
        raise DatasetError(
            f"all {len(labels)} tiles are of one group, {names[0]}; expected at least two, one to learn from and one "
            "to judge on, or the tiles of another site with --test"
        )
    for place, name in enumerate(tiles.classes):
        having = np.unique(groups[labels == place])
        if len(having) < 2:
            raise DatasetError(
                f"class {name!r} is in one group only, {having[0]}: it cannot be both learned and judged; expected "
                "tiles of each class in at least two groups"
            )
    if len(names) <= MOST_LEFT_OUT_IN_TURN:
        divided = LeaveOneGroupOut().split(labels, labels, groups)
        scheme = f"each of {len(names)} groups left out in turn"
    else:
        splitter = StratifiedGroupKFold(OUTER_FOLDS, shuffle=True, random_state=seed)
        divided = splitter.split(labels, labels, groups)
        scheme = f"{OUTER_FOLDS} folds of {len(names)} groups"
    pairs = list(divided)
    folds = tuple(
        Fold(
            name=str(names[n]) if len(names) <= MOST_LEFT_OUT_IN_TURN else str(n + 1), train=train, test=test
        )
        for n, (train, test) in enumerate(pairs)
    )
    return Task(
        classes=tiles.classes, labels=labels, groups=groups, sites=tiles.sites, folds=folds, scheme=scheme
    )


def other_site(tiles: ProbeTiles, test: ProbeTiles) -> Task:
    """Learn on all of ``tiles``, judge on ``test``; places count on from the one to the other.

    Raises:
        DatasetError: ``test`` has a class that is not learned, or both have a group of the same name.
    """
    strange = [name for name in test.classes if name not in tiles.classes]
    if strange:
        raise DatasetError(
            f"{test.folder} has classes that {tiles.folder} has not: {', '.join(strange)}; expected some of "
            f"{', '.join(tiles.classes)}"
        )
    place_of = np.array([tiles.classes.index(name) for name in test.classes])
    # Without groups their names are those of files, and two sites may well count theirs alike.
    groups = (
        np.concatenate([tiles.groups, test.groups])
        if tiles.has_groups and test.has_groups
        else np.array([*(f"learned/{g}" for g in tiles.groups), *(f"judged/{g}" for g in test.groups)])
    )
    common = sorted(set(groups[: len(tiles.labels)]) & set(groups[len(tiles.labels) :]))
    if common:
        raise DatasetError(
            f"groups are both in {tiles.folder} and in {test.folder}: {', '.join(common[:_LISTED])}; a patient or "
            "slide that is learned from cannot be judged; rename them if they are different ones"
        )
    train = np.arange(len(tiles.labels))
    fold = Fold(name=str(test.folder), train=train, test=len(train) + np.arange(len(test.labels)))
    return Task(
        classes=tiles.classes,
        labels=np.concatenate([tiles.labels, place_of[test.labels]]),
        groups=groups,
        sites=np.concatenate([_sites_of(tiles), _sites_of(test)]),
        folds=(fold,),
        scheme=f"learned on {tiles.folder}, judged on {test.folder}",
    )


def _sites_of(tiles: ProbeTiles) -> NDArray[np.str_]:
    """The site of each tile; where none are named, the folder is one."""
    return tiles.sites if tiles.sites is not None else np.full(len(tiles.labels), str(tiles.folder))
