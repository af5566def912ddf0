"""Recipe: a run and the pixels of its slides to a backbone and a run that were trained together."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config.endtoend import EndToEndConfig
from wsi_vmamba.console import live_table
from wsi_vmamba.durable import require_writable
from wsi_vmamba.end_to_end.job import FEATURES, EndToEndJob, prepare
from wsi_vmamba.end_to_end.loop import Judged
from wsi_vmamba.end_to_end.model import BACKBONE
from wsi_vmamba.training.run import EpochReport

_COLUMNS = ("epoch", "learning rate", "loss", "validation loss", "validation AUC", "best")


def run(config: EndToEndConfig) -> bool:
    """Train both, keep those of the best epoch, and say how to use them."""
    require_writable(Path(config.runs), option="--runs")
    job = prepare(config)
    source = job.model.source
    console.say(
        f"training {source.model} ({job.note}) and {job.settings.training.aggregator} on {len(job.training)} slides, "
        f"{len(job.validation)} for validation; the largest region is {' x '.join(map(str, job.largest_px))} px -> "
        f"{job.folder}"
    )
    with live_table(str(job.folder), _COLUMNS) as add:

        def show(report: EpochReport) -> None:
            add(
                (
                    f"{report.epoch}/{config.epochs}", f"{report.learning_rate:.2e}", f"{report.train_loss:.4f}",
                    f"{report.validation_loss:.4f}", f"{report.validation_auc:.4f}", "*" if report.is_best else "",
                )
            )  # fmt: skip

        def show_start(judged: Judged) -> None:
            add(("0", "", "", f"{judged.loss:.4f}", f"{judged.auc:.4f}", ""))

        at_start, best = job.fit(on_start=show_start, on_epoch=show)
    _say_what_next(job, at_start, best)
    return True


def _say_what_next(job: EndToEndJob, at_start: Judged, best: EpochReport) -> None:
    before, after = (at_start.auc, -at_start.loss), (best.validation_auc, -best.validation_loss)
    if after <= before:
        console.warn(
            "no epoch does better on the validation slides than the run that this began with; lower --learning-rate, "
            "or keep that run"
        )
    spec = job.model.source
    weights, features = job.folder / BACKBONE, job.folder / FEATURES
    console.say(
        f"best epoch {best.epoch}: validation AUC {best.validation_auc:.4f}, loss {best.validation_loss:.4f}; before, "
        f"{at_start.auc:.4f} and {at_start.loss:.4f} (the epoch was chosen on these slides); next: wsi-vmamba extract "
        f"SLIDES --backbone {spec.model} --weights {weights} --target-mpp {spec.target_mpp:g} --patch-px "
        f"{spec.patch_px} --out {features}, then wsi-vmamba evaluate --run {job.folder}"
    )
