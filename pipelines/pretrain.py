"""Recipe: slides without labels to weights that `extract --weights` takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.pretraining import OBJECTIVES
from wsi_vmamba.pretraining.objectives.base import Objective
from wsi_vmamba.pretraining.ranks import Ranks, joined
from wsi_vmamba.pretraining.run import WEIGHTS, Begun, begin, refuse_existing
from wsi_vmamba.pretraining.source import Source, paints_every, slide_views, source_of
from wsi_vmamba.progress import in_words
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.training.resolve import choose_device


def run(config: PretrainConfig) -> bool:
    """Train, keeping checkpoints, log and weights in the folder; the first process says how it goes.

    Slides that cannot be used are named and left out; that they were there makes the command fail in the end.
    """
    refuse_existing(config)
    require_writable(Path(config.out), option="--out")
    with (
        joined(choose_device(config.device)) as (ranks, device),
        _source(config, ranks) as (source, complete),
    ):
        begun = begin(config, source, ranks=ranks, device=device)
        if ranks.leads:
            _announce(config, source, begun, ranks, device)
        _follow(config, begun, ranks)
        if ranks.leads:
            facts = {
                "device": device, "processes": ranks.world, "weights": begun.note, "precision": begun.precision,
                "slides": source.slide_ids,
            }  # fmt: skip
            write_run_record(Path(config.out), command="pretrain", config=config, facts=facts)
            console.say(
                f"done; next: wsi-vmamba extract SLIDES --backbone {config.backbone} --weights "
                f"{Path(config.out) / WEIGHTS}"
            )
    return complete


@contextmanager
def _source(config: PretrainConfig, ranks: Ranks) -> Iterator[tuple[Source, bool]]:
    """What is shown, and whether all slides can be."""
    objective: type[Objective] = OBJECTIVES.resolve(config.objective)
    if not objective.reads_slides:
        yield Source(), True
        return
    with slide_views(find_sources(config.slides), config, ranks) as views:
        if ranks.leads:
            for error in views.left_out:
                console.warn(f"left out: {error}")
        yield source_of(views), not views.left_out


def _announce(config: PretrainConfig, source: Source, begun: Begun, ranks: Ranks, device: str) -> None:
    slides = [f"{len(source.slide_ids)} slides"] if source.slide_ids else []
    what = " and ".join([*slides, *(["generated tiles"] if paints_every(config) else [])])
    processes = f", {ranks.world} processes" if ranks.world > 1 else ""
    console.say(
        f"pretraining {config.backbone} ({begun.note}) by {config.objective} on {what}, {device} {begun.precision}"
        f"{processes}"
    )
    if begun.first:
        console.say(f"going on after step {begun.first} of {config.steps}")


def _follow(config: PretrainConfig, begun: Begun, ranks: Ranks) -> None:
    """Make the steps; the first process says how each line of the log looks and when the last one will come."""
    began_s = time.monotonic()
    for report in begun.reports:
        if not ranks.leads:
            continue
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in report.numbers.items())
        made = report.step - begun.first
        left_s = (time.monotonic() - began_s) / made * (config.steps - report.step)
        console.say(
            f"step {report.step}/{config.steps}  {numbers}  images/s {report.images_per_s:.1f}  {in_words(left_s)}"
        )
        if report.warning:
            console.warn(f"step {report.step}: {report.warning}")
