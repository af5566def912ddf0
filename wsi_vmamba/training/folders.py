"""Where runs lie: the folder of a run, of its folds, and the newest that is finished. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import TrainingError

#: Written last: where it is, the run, or all runs of the cross-validation, are finished.
RECORD = "train.run.json"
#: The configuration that a run was trained with.
CONFIG = "train.yaml"


def fold_folder(folder: Path, number: int) -> Path:
    """Folder of one run of a cross-validation, counted from 1."""
    return folder / f"fold-{number}"


def newest_run(runs: Path) -> Path:
    """Return the run that was finished last.

    Raises:
        TrainingError: there is none.
    """
    finished = sorted(runs.rglob(RECORD), key=lambda file: file.stat().st_mtime_ns)
    if not finished:
        raise TrainingError(
            f"no finished run under {runs.absolute()}; make one with `wsi-vmamba train`, or give --run"
        )
    return finished[-1].parent
