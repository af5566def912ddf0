"""Training in rounds, after each of which all that is needed to go on is on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from wsi_vmamba.dense.model_file import FILE
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.training.finetune_state import FILE as CHECKPOINT
from wsi_vmamba.training.finetune_state import load_state, save_state

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

METRICS = "metrics.csv"
Report = TypeVar("Report", bound="DataclassInstance")


class Loop(Protocol[Report]):
    """What trains a model, round by round, to the same numbers wherever it was stopped and restored.

    Attributes:
        history: a report of each round, the same numbers in each; the best so far have ``is_best``.
    """

    history: list[Report]

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        ...

    def run_epoch(self) -> Report:
        """Train one more round and judge it."""
        ...

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


def refuse_existing(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse to train over a model or a checkpoint that is there, unless that is asked for.

    Raises:
        UsageError: one is there.
    """
    there = next((name for name in (FILE, CHECKPOINT) if (out / name).exists()), None)
    if there and not overwrite and not resume:
        raise UsageError(
            f"{out / there} is there already; replace it with --overwrite, go on with --resume, or choose another --out"
        )


def restore(loop: Loop[Report], out: Path, asked: Mapping[str, Any]) -> None:
    """Go on from the checkpoint in a folder, where there is one.

    Args:
        loop: that trains.
        out: the folder.
        asked: what a training that goes on must have in common with the one that was stopped.

    Raises:
        TrainingError: the checkpoint is damaged, or of another training.
    """
    state = load_state(out, asked, what="training")
    if state is not None:
        loop.restore(state)


def run_rounds(
    loop: Loop[Report],
    out: Path,
    *,
    packed: Callable[[], bytes],
    asked: Mapping[str, Any],
    on_epoch: Callable[[Report], None] = lambda _: None,
) -> None:
    """Train to the end, keeping after each round the best model, the numbers of all rounds, and a checkpoint.

    Args:
        loop: that trains.
        out: folder for all of it.
        packed: the model as it is now.
        asked: see `restore`.
        on_epoch: told of each round when its files are on disk.

    Raises:
        TrainingError: loss or gradient is not finite.
    """
    while not loop.finished:
        report = loop.run_epoch()
        if report.is_best:  # type: ignore[attr-defined]
            write_atomic(out / FILE, packed())
        columns = tuple(field.name for field in fields(report))
        write_atomic(out / METRICS, csv_text(columns, (astuple(one) for one in loop.history)))
        save_state(out, loop.state(), asked)
        on_epoch(report)


def best_of(history: Sequence[Report]) -> Report:
    """The round whose model is kept."""
    return next(report for report in reversed(history) if report.is_best)  # type: ignore[attr-defined]
