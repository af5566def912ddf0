"""What a reader of the numbers should know, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsi_vmamba.probing.folds import Task
from wsi_vmamba.probing.groups import GROUPS_FILE
from wsi_vmamba.probing.intervals import FEWEST_GROUPS
from wsi_vmamba.probing.judge import Judged
from wsi_vmamba.probing.tiles import ProbeTiles


def notes_on(sets: Sequence[ProbeTiles], task: Task, judged: Judged) -> tuple[str, ...]:
    """Everything that makes the numbers of these tiles better or worse than they look."""
    return (*map(_on_groups, (one for one in sets if not one.has_groups)), *_on_few(task), *_on_folds(judged))


def _on_groups(tiles: ProbeTiles) -> str:
    what, of = ("picture", "pictures") if tiles.cells is not None else ("tile", "tiles of one slide")
    return (
        f"no groups for {tiles.folder}: each {what} counts as a patient of its own. Near-duplicates among {of} make "
        f"these numbers better than they are, perhaps by far; name patients or slides in {tiles.folder / GROUPS_FILE} "
        "(file, group)"
    )


def _on_few(task: Task) -> list[str]:
    n_groups = len(np.unique(task.groups[task.judged]))
    if n_groups >= FEWEST_GROUPS:
        return []
    return [
        f"only {n_groups} group(s) are judged: intervals come from drawing tiles within them and do not say how much "
        "other patients would differ"
    ]


def _on_folds(judged: Judged) -> list[str]:
    notes = []
    ways = {by for _, by in judged.penalties}
    if "tiles" in ways:
        notes.append(
            "the penalty was chosen on tiles of the same groups where too few groups were left to leave one out"
        )
    if "fixed" in ways:
        notes.append("the penalty was fixed where there were too few tiles to choose it by")
    absent = sorted({name for names in judged.missing for name in names})
    if absent:
        notes.append(f"some folds learned from no tile of {', '.join(absent)}, and never predict it")
    undefined = sum(value is None for value in judged.fold_aucs)
    if undefined:
        notes.append(
            f"{undefined} of {len(judged.fold_aucs)} folds hold tiles of one class only; the mean over folds leaves "
            "them out"
        )
    return notes
