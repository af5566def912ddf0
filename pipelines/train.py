"""Recipe: feature files and labels to a slide classifier, kept by its validation AUC."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

from wsi_vmamba.pipelines import train_table

from wsi_vmamba import console
from wsi_vmamba.bags import BagLoader, SlideRecord
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.config.train import DEFAULT_AGGREGATOR
from wsi_vmamba.datasets import DATASETS, FEATURE_TABLES
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.device import is_gpu, resolve_device
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.live import live_table
from wsi_vmamba.mil import SUPERVISIONS
from wsi_vmamba.mil.supervision import Supervision
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training import EpochReport, PatchTargets, TrainSettings, source_of_folds, split_folds, train
from wsi_vmamba.training.run import MODEL

#: Written last: where it is, the run, or all runs of the cross-validation, are finished.
RECORD = "train.run.json"


def run(config: TrainConfig, *, log_epochs: bool = True) -> int:
    """Train on the data set's training slides and save the run, or one run per fold; return 0.

    Args:
        config: of the run.
        log_epochs: write a line for each epoch where output is no terminal; a terminal shows them live either way.
    """
    require_writable(Path(config.runs), option="--runs")
    if config.dataset in FEATURE_TABLES:
        code: int = train_table.run(config)
        return code
    records = load_records(config)
    known = [record for record in records if record.split != "test"]
    features = Path(config.features)
    require_features(known, features, dataset=config.dataset)
    settings = settings_of(config)
    targets = PatchTargets(Path(config.annotations) if config.annotations else None)
    if settings.supervises.patches:
        targets.require(known, every=not settings.supervises.slides)
    folder, loader = run_folder(config), BagLoader(features)
    console.say(
        f"training {settings.aggregator or 'a patch head'} on {len(known)} slides of {config.dataset} -> {folder}"
    )
    if settings.supervises.patches:
        _say_notes(targets, known, loader)
    if config.folds is None:
        best = _train_one(config, records, folder, loader=loader, targets=targets, log_epochs=log_epochs)
        console.say(f"validation AUC {best.validation_auc:.4f}; next: wsi-vmamba evaluate --run {folder}")
        return 0
    if (folder / MODEL).exists():
        raise UsageError(f"{folder} holds a run without folds; choose another --name")
    splits = split_folds(records, folds=config.folds, seed=config.seed)
    console.say(source_of_folds(records, folds=config.folds, seed=config.seed))
    if config.resume or config.overwrite:
        # Being there says that all folds are of one finished training.
        (folder / RECORD).unlink(missing_ok=True)
    found = []
    for number, split in enumerate(splits, start=1):
        into = fold_folder(folder, number)
        best = _train_one(config, split, into, loader=loader, targets=targets, log_epochs=log_epochs)
        found.append(best.validation_auc)
    facts = {"device": choose_device(config.device), "validation_auc": found}
    write_run_record(folder, command="train", config=config, facts=facts)
    shown = ", ".join(f"{auc:.4f}" for auc in found)
    console.say(
        f"validation AUC by fold {shown}; mean {mean(found):.4f}. The epoch to keep was chosen on the same slides, "
        f"which flatters; next: wsi-vmamba evaluate --run {folder} (the mean of the models on test slides), or with "
        "--split validation (each slide by the model that was not trained on it)"
    )
    return 0


def _say_notes(targets: PatchTargets, records: list[SlideRecord], loader: BagLoader) -> None:
    """Read all outlines before anything is trained, and print what was repaired or left out of them."""
    tumors = [record for record in records if record.label == 1]
    without = [record.slide_id for record in tumors if targets.find(record) is None]
    for record in tumors:
        console.say_notes(record.slide_id, targets.notes(record, loader(record)))
    if without:
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        console.say(
            f"note: {len(without)} of {len(tumors)} tumour slides have no outlines, so their patches teach nothing: "
            f"{shown}"
        )


def _train_one(
    config: TrainConfig,
    records: list[SlideRecord],
    folder: Path,
    *,
    loader: BagLoader,
    targets: PatchTargets,
    log_epochs: bool,
) -> EpochReport:
    """Train into one folder, showing each epoch; return the best one."""
    device = choose_device(config.device)
    columns = ("epoch", "learning rate", "loss", "validation loss", "validation AUC", "best")
    with live_table(str(folder), columns, log=log_epochs) as add:

        def show(report: EpochReport) -> None:
            add(
                (
                    f"{report.epoch}/{config.epochs}", f"{report.learning_rate:.2e}", f"{report.train_loss:.4f}",
                    f"{report.validation_loss:.4f}", f"{report.validation_auc:.4f}", "*" if report.is_best else "",
                )
            )  # fmt: skip

        result = train(
            records, loader, settings_of(config), folder,
            load_targets=targets, describe_targets=targets.describe,
            resume=config.resume, overwrite=config.overwrite, device=device, on_epoch=show,
        )  # fmt: skip
    best = result.best
    slides = sum(record.split != "test" for record in records)
    facts = {
        "device": device,
        "best": vars(best),
        "slides": slides,
        "resolved": settings_of(config).to_dict(),
    }
    write_run_record(folder, command="train", config=config, facts=facts)
    console.say(
        f"best epoch {best.epoch} of {len(result.history)}: validation AUC {best.validation_auc:.4f}, "
        f"loss {best.validation_loss:.4f}"
    )
    return best


def choose_device(asked: str) -> str:
    """Resolve ``auto`` to ``cuda`` where there is one, and make its matrix products reproducible.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    device = resolve_device(asked)
    if is_gpu(device):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return device


def load_records(config: TrainConfig) -> list[SlideRecord]:
    """Return the slides of the configured data set, with their labels and splits."""
    manifest = Path(config.manifest) if config.manifest else None
    records: list[SlideRecord] = DATASETS.resolve(config.dataset)(manifest=manifest)
    return records


def run_folder(config: TrainConfig) -> Path:
    """Folder of the run: ``<runs>/<name>``."""
    trained = settings_of(config).aggregator or config.supervision
    return Path(config.runs) / (config.name or f"{config.dataset}-{trained}")


def fold_folder(folder: Path, number: int) -> Path:
    """Folder of one run of a cross-validation, counted from 1."""
    return folder / f"fold-{number}"


def settings_of(config: TrainConfig) -> TrainSettings:
    """The part of the configuration that shapes the training itself."""
    shared = set(TrainSettings.model_fields) & set(TrainConfig.model_fields)
    values = config.model_dump(include=shared)
    supervision: Supervision = SUPERVISIONS.resolve(config.supervision)
    if supervision.slides and config.aggregator is None:
        values["aggregator"] = DEFAULT_AGGREGATOR
    if config.precision == "auto":
        values["precision"] = "bf16" if is_gpu(choose_device(config.device)) else "fp32"
    return TrainSettings(**values)


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
