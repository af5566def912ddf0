"""Recipe: slides without labels to weights that `extract --weights` takes."""

from __future__ import annotations

import time

from wsi_vmamba import console
from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.pretraining.front import Beginning, run_pretraining
from wsi_vmamba.pretraining.loop import Report
from wsi_vmamba.pretraining.source import paints_every
from wsi_vmamba.progress import in_words


def run(config: PretrainConfig) -> bool:
    """Train, keeping checkpoints, log and weights in the folder; the first process says how it goes.

    Slides that cannot be used are named and left out; that they were there makes the command fail in the end.
    """
    teller = _Teller(config)
    made = run_pretraining(config, on_begin=teller.begin, on_report=teller.report)
    teller.end(f"done; next: wsi-vmamba extract SLIDES --backbone {config.backbone} --weights {made.weights}")
    return not made.left_out


class _Teller:
    """Says what is trained on what, how each line of the log looks, and when the last one will come.

    In a process that does not lead, nothing begins and nothing is said.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self._config = config
        self._first = 0
        self._began_s: float | None = None

    def begin(self, told: Beginning) -> None:
        config, begun = self._config, told.begun
        for error in told.left_out:
            console.warn(f"left out: {error}")
        slides = [f"{len(told.source.slide_ids)} slides"] if told.source.slide_ids else []
        what = " and ".join([*slides, *(["generated tiles"] if paints_every(config) else [])])
        processes = f", {told.ranks.world} processes" if told.ranks.world > 1 else ""
        console.say(
            f"pretraining {config.backbone} ({begun.note}) by {config.objective} on {what}, {told.device} "
            f"{begun.precision}{processes}"
        )
        if begun.first:
            console.say(f"going on after step {begun.first} of {config.steps}")
        self._first = begun.first
        self._began_s = time.monotonic()

    def report(self, report: Report) -> None:
        assert self._began_s is not None
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in report.numbers.items())
        left = self._config.steps - report.step
        left_s = (time.monotonic() - self._began_s) / (report.step - self._first) * left
        console.say(
            f"step {report.step}/{self._config.steps}  {numbers}  images/s {report.images_per_s:.1f}  "
            f"{in_words(left_s)}"
        )
        if report.warning:
            console.warn(f"step {report.step}: {report.warning}")

    def end(self, words: str) -> None:
        if self._began_s is not None:
            console.say(words)
