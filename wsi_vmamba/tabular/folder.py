"""The folder of a classifier of rows: its files, and what can be asked of it without loading scikit-learn."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UsageError

MODEL, DESCRIPTION, VALIDATION = "classifier.skops", "classifier.json", "validation.csv"


def holds_tabular_run(folder: Path) -> bool:
    """Whether a run's folder is that of a classifier of rows."""
    return (folder / DESCRIPTION).is_file()


def refuse_existing(folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace a run that was not asked to be replaced; remove it where it was.

    Raises:
        UsageError: there is a run and ``overwrite`` is not set.
    """
    if holds_tabular_run(folder) and not overwrite:
        raise UsageError(f"{folder} holds a run already; choose another --name, or --overwrite it")
    for name in (MODEL, DESCRIPTION, VALIDATION):
        (folder / name).unlink(missing_ok=True)
