"""Recipe: feature files and labels to a slide classifier, kept by its validation AUC."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.pipelines import train_table

from wsi_vmamba import console
from wsi_vmamba.bags import BagLoader, SlideRecord
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.datasets import DATASETS, FEATURE_TABLES
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training import EpochReport, TrainSettings, train


def run(config: TrainConfig) -> int:
    """Train on the data set's training slides and save the run; return 0."""
    if config.dataset in FEATURE_TABLES:
        code: int = train_table.run(config)
        return code
    records = load_records(config)
    known = [record for record in records if record.split != "test"]
    features = Path(config.features)
    require_features(known, features, dataset=config.dataset)
    folder = run_folder(config)
    console.say(f"training {config.aggregator} on {len(known)} slides of {config.dataset} -> {folder}")
    loader = BagLoader(features)
    with console.progress("epoch", config.epochs) as task:

        def show(report: EpochReport) -> None:
            task.step(
                f"{report.epoch}: loss {report.train_loss:.4f}, validation AUC {report.validation_auc:.4f}"
            )

        result = train(
            records, loader, settings_of(config), folder,
            resume=config.resume, overwrite=config.overwrite, on_epoch=show,
        )  # fmt: skip
    best = result.best
    facts = {"device": "cpu", "best": vars(best), "slides": len(known)}
    write_run_record(folder, command="train", config=config, facts=facts)
    console.say(
        f"best epoch {best.epoch} of {len(result.history)}: validation AUC {best.validation_auc:.4f}, "
        f"loss {best.validation_loss:.4f}; next: wsi-vmamba evaluate --metric auc --run {folder}"
    )
    return 0


def load_records(config: TrainConfig) -> list[SlideRecord]:
    """Return the slides of the configured data set, with their labels and splits."""
    manifest = Path(config.manifest) if config.manifest else None
    records: list[SlideRecord] = DATASETS.resolve(config.dataset)(manifest=manifest)
    return records


def run_folder(config: TrainConfig) -> Path:
    """Folder of the run: ``<runs>/<name>``."""
    return Path(config.runs) / (config.name or f"{config.dataset}-{config.aggregator}")


def settings_of(config: TrainConfig) -> TrainSettings:
    """The part of the configuration that shapes the training itself."""
    shared = set(TrainSettings.__dataclass_fields__) & set(TrainConfig.model_fields)
    return TrainSettings(**config.model_dump(include=shared))


def newest_run(runs: Path) -> Path:
    """Return the run that was finished last.

    Raises:
        TrainingError: there is none.
    """
    finished = sorted(runs.glob("*/train.run.json"), key=lambda file: file.stat().st_mtime_ns)
    if not finished:
        raise TrainingError(
            f"no finished run under {runs.absolute()}; make one with `wsi-vmamba train`, or give --run"
        )
    return finished[-1].parent
