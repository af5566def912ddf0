"""The folder of a run: what `train` leaves there and how it is read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import TrainingError, UsageError, WeightsError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.table import read_table
from wsi_vmamba.training.model import ModelSpec, SlideClassifier
from wsi_vmamba.training.reference import REFERENCE
from wsi_vmamba.training.settings import TrainSettings

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "best.safetensors"
MODEL = "model.json"
METRICS = "metrics.csv"
SPLITS = "splits.csv"


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One row of metrics.csv; ``is_best`` says whether the model of this epoch became the one to keep."""

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_auc: float
    is_best: bool


#: Told of each epoch when its checkpoint is on disk.
OnEpoch = Callable[[EpochReport], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished or interrupted run, with the best model so far, in evaluation mode.

    Attributes:
        path: the run's folder.
        model: the best model.
        settings: how it was trained.
        best: the row of metrics.csv of the epoch it is from.
        splits: slide_id -> split, of all slides of the data set.
    """

    path: Path
    model: SlideClassifier
    settings: TrainSettings
    best: EpochReport
    splits: Mapping[str, str]


def load_run(run_dir: Path, *, device: str = "cpu") -> Run:
    """Read a run's best model and what belongs to it.

    Raises:
        TrainingError: the folder holds no run, or a file of it is damaged.
        WeightsError: the weights cannot be read or do not fit.
    """
    if not (run_dir / MODEL).is_file():
        raise TrainingError(
            f"no trained run at {run_dir} ({MODEL} is not there); make one with `wsi-vmamba train`"
        )
    try:
        content = json.loads((run_dir / MODEL).read_text(encoding="utf-8"))
        spec = ModelSpec.from_dict(content["spec"])
        settings = TrainSettings(**content["settings"])
        best = EpochReport(**content["best"])
        splits = read_splits(run_dir)
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise TrainingError(f"{run_dir} is damaged ({type(error).__name__}: {error}); train again") from error
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, though none of them stays
        model = SlideClassifier(spec)
    try:
        weights = safetensors.torch.load_file(run_dir / WEIGHTS)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{run_dir / WEIGHTS}: {error}; train again, or restore the file") from error
    return Run(path=run_dir, model=model.to(device).eval(), settings=settings, best=best, splits=splits)


def save_best(run_dir: Path, model: SlideClassifier, settings: TrainSettings, best: EpochReport) -> None:
    """Write best.safetensors and model.json."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(run_dir / WEIGHTS, safetensors.torch.save(tensors))
    content = {"spec": model.spec.to_dict(), "settings": settings.to_dict(), "best": asdict(best)}
    write_atomic(run_dir / MODEL, (json.dumps(content, indent=2) + "\n"))


def write_metrics(run_dir: Path, history: Sequence[EpochReport]) -> None:
    """Write metrics.csv, one row per epoch; numbers in full, so that equal runs give equal files."""
    header = [field.name for field in fields(EpochReport)]
    write_atomic(run_dir / METRICS, csv_text(header, (astuple(report) for report in history)))


def read_metrics(run_dir: Path) -> tuple[EpochReport, ...]:
    """Read metrics.csv, the same numbers that `write_metrics` was given.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    columns = [field.name for field in fields(EpochReport)]
    table = read_table(run_dir / METRICS, expects=columns, error=TrainingError)
    table.require(columns)
    try:
        return tuple(_report(row.cells) for row in table.rows)
    except ValueError as error:
        raise TrainingError(f"{run_dir / METRICS} is damaged ({error}); train again") from error


def _report(cells: Mapping[str, str]) -> EpochReport:
    if cells["is_best"] not in ("True", "False"):
        raise ValueError(f"is_best must be True or False, got {cells['is_best']!r}")
    return EpochReport(
        epoch=int(cells["epoch"]),
        learning_rate=float(cells["learning_rate"]),
        train_loss=float(cells["train_loss"]),
        validation_loss=float(cells["validation_loss"]),
        validation_auc=float(cells["validation_auc"]),
        is_best=cells["is_best"] == "True",
    )


def write_splits(run_dir: Path, records: Sequence[SlideRecord]) -> None:
    """Write splits.csv, one row per slide of the data set, sorted by slide_id."""
    rows = [
        [record.slide_id, record.patient_id, "" if record.label is None else record.label, record.split or ""]
        for record in sorted(records, key=lambda record: record.slide_id)
    ]
    write_atomic(run_dir / SPLITS, csv_text(("slide_id", "patient_id", "label", "split"), rows))


def read_splits(run_dir: Path) -> dict[str, str]:
    """Read splits.csv as slide_id -> split.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    columns = ("slide_id", "split")
    table = read_table(run_dir / SPLITS, expects=columns, error=TrainingError)
    table.require(columns)
    return {row["slide_id"]: row["split"] for row in table.rows}


def remove_run(run_dir: Path) -> None:
    """Remove the files that `train` writes, and nothing else."""
    for name in (CHECKPOINT, WEIGHTS, MODEL, METRICS, SPLITS, REFERENCE):
        (run_dir / name).unlink(missing_ok=True)
