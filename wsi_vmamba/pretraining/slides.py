"""The slides of a pretraining as a source of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.pretraining.loop import Batches
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.run import Source
from wsi_vmamba.pretraining.views import SlideViews, ViewSettings
from wsi_vmamba.slide.location import Location


def slide_source(slides: Mapping[str, Location], config: PretrainConfig, ranks: Ranks) -> Source:
    """The views of slides, by slide_id."""

    @contextmanager
    def batches() -> Iterator[Batches]:
        settings = ViewSettings(batch=config.batch)
        with SlideViews(
            list(slides.values()), settings, seed=config.seed, rank=ranks.rank, world=ranks.world,
            mpp_override=config.mpp_override, threads=config.threads,
        ) as views:  # fmt: skip
            yield views.batches

    return Source(slide_ids=tuple(sorted(slides)), batches=batches)
