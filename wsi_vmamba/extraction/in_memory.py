"""One slide through the encoder with nothing written: what `embed` gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.extraction.encoding import (
    Job,
    encode_missing,
    job_facts,
    record_left_out,
    remove_scratch,
    require_unchanged,
    sound_blocks,
)
from wsi_vmamba.slide.identity import slide_identity
from wsi_vmamba.store import DoneRegion, FeatureMeta
from wsi_vmamba.stream import StreamStats


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSlide:
    """The features of a slide in memory.

    Attributes:
        meta: what its feature file would say about itself.
        features: (N, D) float16, as a feature file holds them.
        coords_l0: (N, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.
    """

    meta: FeatureMeta
    features: NDArray[np.float16]
    coords_l0: NDArray[np.int64]


def encode_in_memory(job: Job) -> EncodedSlide:
    """Encode all regions; nothing is written, and nothing is kept of a slide that something ends.

    Raises:
        UnreadableSlideError: the slide cannot be read, or every patch touches a damaged tile.
    """
    as_opened = slide_identity(job.slide.path)
    journal = MemoryJournal()
    try:
        encode_missing(job, journal, StreamStats(), job_facts(job, as_opened))
    finally:
        remove_scratch(job)
    require_unchanged(job, as_opened)
    left_out: list[NDArray[np.int64]] = []
    blocks = list(sound_blocks(job, journal, left_out))
    meta = replace(job.meta, left_out=record_left_out(job, left_out))
    return EncodedSlide(
        meta=meta,
        features=np.concatenate([features for features, _ in blocks]),
        coords_l0=np.concatenate([corners for _, corners in blocks]),
    )


class MemoryJournal:
    """Keeps regions in memory only."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._regions: dict[int, DoneRegion] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._regions

    def append(self, region: DoneRegion) -> None:
        """See `Journal.append`."""
        self._regions[region.index] = region

    def read(self, index: int) -> DoneRegion:
        """See `Journal.read`."""
        return self._regions[index]
