"""Recipe: feature files and labels to a slide classifier, kept by its validation AUC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from wsi_vmamba import console
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.console import live_table
from wsi_vmamba.datasets import FEATURE_TABLES
from wsi_vmamba.durable import require_writable
from wsi_vmamba.tabular.train import train_table
from wsi_vmamba.training.job import TrainJob, prepare
from wsi_vmamba.training.run import EpochReport, OnEpoch


def run(config: TrainConfig, *, log_epochs: bool = True) -> bool:
    """Train on the data set's training slides and save the run, or one run per fold.

    Args:
        config: of the run.
        log_epochs: write a line for each epoch where output is no terminal; a terminal shows them live either way.
    """
    require_writable(Path(config.runs), option="--runs")
    if config.dataset in FEATURE_TABLES:
        return _fit_table(config)
    job = prepare(config)
    console.say(
        f"training {job.settings.aggregator or 'a patch head'} on {len(job.records)} {config.bag}s of "
        f"{config.dataset} -> {job.folder}"
    )
    if job.classes:
        console.say(f"{len(job.classes)} classes: {job.classes_in_words()}")
    _say_notes(job)
    if job.folds_from:
        console.say(job.folds_from)
    found = []
    for part in job.parts:
        with _shown(part.folder, config.epochs, log_epochs=log_epochs) as show:
            result = job.fit(part, on_epoch=show)
        found.append(result.best)
        console.say(
            f"best epoch {result.best.epoch} of {len(result.history)}: validation AUC "
            f"{result.best.validation_auc:.4f}, loss {result.best.validation_loss:.4f}"
        )
    job.finish(found)
    _say_what_next(job, [best.validation_auc for best in found])
    return True


def _fit_table(config: TrainConfig) -> bool:
    """Fit a classifier on rows of numbers, which takes no epochs."""
    fitted = train_table(config)
    console.say(
        f"{config.classifier} on {fitted.n_features} features; validation AUC {fitted.validation_auc:.4f} on "
        f"{fitted.n_validation} slides that the scoring classifier had not seen; next: wsi-vmamba evaluate --metric "
        f"auc --run {fitted.folder}"
    )
    return True


def _say_notes(job: TrainJob) -> None:
    """Print what was repaired or left out of outlines before anything is trained."""
    notes = job.notes()
    for slide_id, found in notes:
        console.say_notes(slide_id, found)
    if without := job.without_outlines():
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        console.say(
            f"note: {len(without)} of {len(notes)} tumour slides have no outlines, so their patches teach nothing: "
            f"{shown}"
        )


@contextmanager
def _shown(folder: Path, epochs: int, *, log_epochs: bool) -> Iterator[OnEpoch]:
    """A table that grows by a row an epoch."""
    columns = ("epoch", "learning rate", "loss", "validation loss", "validation AUC", "best")
    with live_table(str(folder), columns, log=log_epochs) as add:

        def show(report: EpochReport) -> None:
            add(
                (
                    f"{report.epoch}/{epochs}", f"{report.learning_rate:.2e}", f"{report.train_loss:.4f}",
                    f"{report.validation_loss:.4f}", f"{report.validation_auc:.4f}", "*" if report.is_best else "",
                )
            )  # fmt: skip

        yield show


def _say_what_next(job: TrainJob, aucs: list[float]) -> None:
    if not job.folds_from:
        console.say(f"validation AUC {aucs[0]:.4f}; next: wsi-vmamba evaluate --run {job.folder}")
        return
    shown = ", ".join(f"{auc:.4f}" for auc in aucs)
    console.say(
        f"validation AUC by fold {shown}; mean {mean(aucs):.4f}. The epoch to keep was chosen on the same slides, "
        f"which flatters; next: wsi-vmamba evaluate --run {job.folder} (the mean of the models on test slides), or "
        "with --split validation (each slide by the model that was not trained on it)"
    )
