"""How the training went, by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.evaluation.front import Run, open_run
from wsi_vmamba.html_report.curves import epochs_figure
from wsi_vmamba.html_report.markup import Html, details, element, join, paragraph, table
from wsi_vmamba.training.run import EpochReport

_COLUMNS = ("epoch", "learning rate", "loss", "validation loss", "validation AUC", "kept")


def training_section(folder: Path) -> Html:
    """Losses and validation AUC of a run, or of each fold."""
    run = open_run(folder)
    if run.folds:
        numbered = enumerate(run.folds, start=1)
        return join(join([element("h3", f"Fold {place}"), _of(one)]) for place, one in numbered)
    return _of(run)


def _of(run: Run) -> Html:
    if not run.history:
        return paragraph("A classifier of rows of numbers is fitted at once; there are no epochs.")
    history, best = run.history, run.best.epoch
    epochs = [one.epoch for one in history]
    losses = [
        ("training", [one.train_loss for one in history]),
        ("validation", [one.validation_loss for one in history]),
    ]
    areas = [("", [one.validation_auc for one in history])]
    charts = element(
        "div", epochs_figure("Loss", losses, epochs, best=best, y="Loss"),
        epochs_figure("Validation AUC", areas, epochs, best=best, y="AUC of the validation slides"), class_="charts",
    )  # fmt: skip
    numbers = details("Numbers", table(_COLUMNS, _rows(history), caption=f"{len(history)} epochs"))
    return join([charts, numbers])


def _rows(history: Sequence[EpochReport]) -> list[tuple[object, ...]]:
    return [
        (one.epoch, f"{one.learning_rate:.3g}", f"{one.train_loss:.4f}", f"{one.validation_loss:.4f}",
         f"{one.validation_auc:.4f}", "kept" if one.is_best else "")
        for one in history
    ]  # fmt: skip
