"""Training in rounds, after each of which all that is needed to go on is on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsi_vmamba.config import RunConfig
from wsi_vmamba.dense.model_file import FILE
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.provenance import add_to_record, write_run_record
from wsi_vmamba.training.finetune_state import FILE as CHECKPOINT
from wsi_vmamba.training.finetune_state import load_state, save_state
from wsi_vmamba.training.guard import Watch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

METRICS = "metrics.csv"
Report = TypeVar("Report", bound="DataclassInstance")


class Loop(ABC, Generic[Report]):
    """Trains a model, round by round, to the same numbers wherever it was stopped and restored.

    Attributes:
        history: a report of each round, the same numbers in each; the best so far have ``is_best``.
    """

    def __init__(self, report: type[Report], *, epochs: int) -> None:
        """Nothing is done yet.

        Args:
            report: of a round.
            epochs: how many rounds there are.
        """
        self.history: list[Report] = []
        self._report, self._epochs = report, epochs
        self._watch = Watch()

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return len(self.history) >= self._epochs

    @abstractmethod
    def run_epoch(self) -> Report:
        """Train one more round and judge it."""

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """What has a state of its own: model, optimizer, schedule."""

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "history": [asdict(one) for one in self.history],
            "watch": asdict(self._watch),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.history = [self._report(**row) for row in state["history"]]
        self._watch = Watch(**state["watch"])


def refuse_existing(
    out: Path, names: Sequence[str] = (FILE, CHECKPOINT), *, overwrite: bool, resume: bool
) -> None:
    """Refuse to train over a model or a checkpoint that is there, unless that is asked for.

    Raises:
        UsageError: one is there.
    """
    there = next((name for name in names if (out / name).exists()), None)
    if there and not overwrite and not resume:
        raise UsageError(
            f"{out / there} is there already; replace it with --overwrite, go on with --resume, or choose another --out"
        )


def fit(
    loop: Loop[Report],
    config: RunConfig,
    *,
    command: str,
    packed: Callable[[], bytes],
    asked: Mapping[str, Any],
    facts: Mapping[str, Any],
    on_start: Callable[[int], None],
    on_epoch: Callable[[Report], None],
) -> tuple[Report, ...]:
    """Train to the end, keeping after each round the best model, the numbers of all rounds, and a checkpoint.

    Args:
        loop: that trains.
        config: of the training: ``out`` is the folder of all of it, ``resume`` goes on with what is there.
        command: its name.
        packed: the model as it is now.
        asked: what a training that goes on must have in common with the one that was stopped.
        facts: for the record, to which the best round is added.
        on_start: told how many rounds were done already.
        on_epoch: told of each round when its files are on disk.

    Returns:
        All rounds.

    Raises:
        TrainingError: loss or gradient is not finite, or the checkpoint is damaged or of another training.
    """
    out = Path(config.out)  # type: ignore[attr-defined]
    state = load_state(out, asked, what="training") if config.resume else None  # type: ignore[attr-defined]
    if state is not None:
        loop.restore(state)
    # First: a training that is interrupted leaves a model, and what made it must be known.
    write_run_record(out, command=command, config=config, facts=facts)
    record = (out / f"{command}.run.json").read_bytes()
    on_start(len(loop.history))
    while not loop.finished:
        report = loop.run_epoch()
        if report.is_best:  # type: ignore[attr-defined]
            write_atomic(out / FILE, packed())
        columns = tuple(field.name for field in fields(report))
        write_atomic(out / METRICS, csv_text(columns, (astuple(one) for one in loop.history)))
        save_state(out, loop.state(), asked)
        on_epoch(report)
    add_to_record(out, command, {"best": asdict(best_of(loop.history))}, of=record)
    return tuple(loop.history)


def best_of(history: Sequence[Report]) -> Report:
    """The round whose model is kept."""
    return next(report for report in reversed(history) if report.is_best)  # type: ignore[attr-defined]
