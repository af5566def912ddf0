"""Where the tissue is: a low-resolution mask of the slide. One file per segmenter."""

from __future__ import annotations

from typing import Protocol

from wsi_vmamba.errors import UsageError
from wsi_vmamba.registry import Table
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask

__all__ = ["SEGMENTERS", "Segmenter", "TissueMask", "segment_tissue"]

#: Every way to find tissue; an entry is a `Segmenter`.
SEGMENTERS = Table(
    "segmenter",
    {
        "otsu": "wsi_vmamba.tissue.otsu:segment_otsu",
        "all": "wsi_vmamba.tissue.everything:segment_everything",
    },
)


class Segmenter(Protocol):
    """Finds the tissue of one slide; ``mpp`` is the resolved micrometres per level-0 pixel."""

    def __call__(self, slide: Slide, *, mpp: float) -> TissueMask:
        """Return the tissue of ``slide``."""


def segment_tissue(slide: Slide, *, mpp: float, segmenter: str = "otsu") -> TissueMask:
    """Find the tissue of a slide with a segmenter of the table.

    Args:
        slide: an open slide; ``otsu`` reads it at about 8 um per pixel, ``all`` reads nothing.
        mpp: micrometres per level-0 pixel, as resolved (the file's own value may be missing or wrong).
        segmenter: a name in `SEGMENTERS`.

    Raises:
        UnknownNameError: no such segmenter.
        UnreadableSlideError: the slide cannot be read.
    """
    if not mpp > 0:
        raise UsageError(f"mpp must be positive, got {mpp}")
    find: Segmenter = SEGMENTERS.resolve(segmenter)
    return find(slide, mpp=mpp)
