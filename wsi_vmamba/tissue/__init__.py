"""Where the tissue is: a low-resolution mask of the slide. One file per segmenter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from wsi_vmamba.config import OtsuSettings, PlanConfig, default_of
from wsi_vmamba.errors import UsageError
from wsi_vmamba.registry import Table

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name == "TissueMask":  # needs numpy, which the help of a command does not
        from wsi_vmamba.tissue.mask import TissueMask

        return TissueMask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def segment_tissue(
    slide: Slide,
    *,
    mpp: float,
    segmenter: str = default_of(PlanConfig, "segmenter"),
    settings: OtsuSettings | None = None,
) -> TissueMask:
    """Find the tissue of a slide with a segmenter of the table.

    Args:
        slide: an open slide; ``otsu`` reads it at about 8 um per pixel, ``all`` reads nothing.
        mpp: micrometres per level-0 pixel, as resolved (the file's own value may be missing or wrong).
        segmenter: a name in `SEGMENTERS`.
        settings: numbers of ``otsu``, by default its own; no other segmenter has any.

    Raises:
        UsageError: mpp is not positive, or there are settings for a segmenter that has none.
        UnknownNameError: no such segmenter.
        UnreadableSlideError: the slide cannot be read.
    """
    if not mpp > 0:
        raise UsageError(f"mpp must be positive, got {mpp}")
    find: Segmenter = SEGMENTERS.resolve(segmenter)
    if settings is None or settings == OtsuSettings():
        return find(slide, mpp=mpp)
    if segmenter != OtsuSettings.segmenter:
        raise UsageError(f"settings are numbers of the segmenter otsu, got some for {segmenter}")
    from wsi_vmamba.tissue.otsu import segment_otsu

    return segment_otsu(slide, mpp=mpp, settings=settings)
