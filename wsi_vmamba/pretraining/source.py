"""Where the batches of a pretraining come from: views of slides, generated tiles, or both."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.errors import SlideError
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.pretraining import OBJECTIVES
from wsi_vmamba.pretraining.batch import Batch, CropBatches, Painted
from wsi_vmamba.pretraining.found_slides import SlideToShow
from wsi_vmamba.pretraining.objectives.base import Objective
from wsi_vmamba.pretraining.painted_tiles import windows
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.views import Augmentation, SlideViews, ViewSettings


def _nothing(first: int, last: int) -> Iterator[tuple[int, Batch]]:
    return ((step, Batch()) for step in range(first, last))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where views come from.

    Attributes:
        slide_ids: of the slides they are cut from; none where an objective reads none.
        fingerprint: if it differs, so do the pixels.
        crops: gives the views.
    """

    slide_ids: tuple[str, ...] = ()
    fingerprint: str = ""
    crops: CropBatches = _nothing


@contextmanager
def opened_source(config: PretrainConfig, ranks: Ranks) -> Iterator[tuple[Source, tuple[SlideError, ...]]]:
    """What is shown to one process of a pretraining, and why slides that were listed are left out.

    Raises:
        DatasetError: no slides are found, or none of them can be used.
        UsageError: numbers of the views make no sense.
    """
    objective: type[Objective] = OBJECTIVES.resolve(config.objective)
    if not objective.reads_slides:
        yield Source(), ()
        return
    with slide_views(find_sources(config.slides), config, ranks) as views:
        source = Source(slide_ids=views.slide_ids, fingerprint=views.fingerprint, crops=views.batches)
        yield source, views.left_out


def slide_views(slides: Sequence[SlideToShow], config: PretrainConfig, ranks: Ranks) -> SlideViews:
    """Open the slides of a pretraining for one of its processes.

    Raises:
        DatasetError: none of them can be used.
        UsageError: numbers of the views make no sense.
    """
    augmentation = Augmentation(**_with_tuples(config.augmentation))
    settings = ViewSettings(
        batch=config.batch, augmentation=augmentation, **_with_tuples(config.views), measure=measures(config)
    )
    return SlideViews(
        slides, settings, seed=config.seed, rank=ranks.rank, world=ranks.world, threads=config.threads,
        mpp_override=config.mpp_override, tissue=config.segmenter, cache=Path(config.out) / "tissue",
    )  # fmt: skip


def _with_tuples(numbers: RunConfig) -> dict[str, Any]:
    values = numbers.model_dump()
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def batches_of(
    source: Source, config: PretrainConfig, ranks: Ranks, *, first: int, last: int
) -> Generator[tuple[int, Batch], None, None]:
    """The views of each step, with generated tiles in those steps that have some."""
    every = paints_every(config)
    if every is None:
        for step, views in source.crops(first, last):
            yield step, Batch(large=views.large, small=views.small, measured=views.measured)
        return
    # The n-th time that the task is done it is given its n-th windows, whatever lies between.
    begun, done = -(-first // every), -(-last // every)
    with closing(
        windows(config.painted, seed=config.seed, first=begun, last=done, rank=ranks.rank, world=ranks.world)
    ) as painted:
        for step, views in source.crops(first, last):
            window: Painted | None = next(painted) if step % every == 0 else None
            yield step, Batch(large=views.large, small=views.small, measured=views.measured, painted=window)


def measures(config: PretrainConfig) -> bool:
    """Whether views are measured."""
    return config.objective == "measured" or config.measured_weight > 0


def paints_every(config: PretrainConfig) -> int | None:
    """In each how many steps the painted task is done; None where it is not."""
    if config.objective == "painted":
        return 1
    return config.painted_every if config.painted_weight else None
