"""Which micrometres per pixel a slide is processed with, and where that number came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_vmamba.errors import MissingMppError
from wsi_vmamba.geometry import ISOTROPY, MPP_RANGE
from wsi_vmamba.slide.base import Slide

if TYPE_CHECKING:  # importing the room stays cheap
    from wsi_vmamba.slide.canvas import RecordedMpp

#: What a user can do about a resolution that is missing or wrong; part of every message here.
REMEDY = "give the true value with `--mpp-override` or in the manifest's `mpp` column"

#: The property in which a reader says why the resolution that a file records cannot be read or believed.
MPP_PROBLEM = "mpp_problem"
#: The property in which it says what contradicts that resolution without disproving it.
MPP_NOTE = "mpp_note"
#: How far two records of one resolution may be apart: writers round, and some record the objective's nominal value.
_SAME_MPP = 0.1


@dataclass(frozen=True, kw_only=True)
class ResolvedMpp:
    """Micrometres per level-0 pixel that are fit to use.

    Attributes:
        value: micrometres per pixel, inside `MPP_RANGE`.
        source: "override", or what the file records it in, such as "TIFF resolution tags".
    """

    value: float
    source: str


def resolve_mpp(slide: Slide, *, mpp_override: float | None = None) -> ResolvedMpp:
    """Settle the micrometres per level-0 pixel of a slide; an override wins over the file.

    Raises:
        MissingMppError: the file records none and none was given, what it records cannot be read or
            contradicts its picture, the value is outside `MPP_RANGE`, or the file's pixels are not square and no
            override was given.
    """
    if mpp_override is not None:
        return ResolvedMpp(value=_in_range(slide, mpp_override, "the override"), source="override")
    source = slide.properties.get("mpp_source", "file")
    if problem := slide.properties.get(MPP_PROBLEM):
        raise MissingMppError(slide.path, f"{problem}; {REMEDY}")
    if slide.mpp is None:
        raise MissingMppError(slide.path, f"the file records no micrometres per pixel; {REMEDY}")
    value = _in_range(slide, slide.mpp, source)
    _check_square(slide, source)
    return ResolvedMpp(value=value, source=source)


def mpp_note(slide: Slide) -> str:
    """What speaks against the resolution that a slide records, and is left to people to judge; mostly empty."""
    return slide.properties.get(MPP_NOTE, "")


def disagreement(used: RecordedMpp | None, other: RecordedMpp | None) -> str:
    """How another record of the resolution contradicts the one that is used; empty where it does not.

    What is no resolution of tissue microscopy says nothing: tags of 72 or 96 dpi are for printers.
    """
    if used is None or other is None:
        return ""
    low, high = MPP_RANGE
    pairs = [(used.x, other.x), (used.y, other.y)]
    if not all(low <= theirs <= high for _, theirs in pairs):
        return ""
    if all(abs(mine - theirs) <= _SAME_MPP * max(mine, theirs) for mine, theirs in pairs):
        return ""
    return (
        f"the file contradicts itself: {used.x:g} um per pixel by {used.source}, {other.x:g} by {other.source}; the "
        f"first is used, if it is wrong {REMEDY}"
    )


def _in_range(slide: Slide, mpp: float, source: str) -> float:
    low, high = MPP_RANGE
    if not math.isfinite(mpp) or not low <= mpp <= high:
        raise MissingMppError(
            slide.path,
            f"{mpp:g} um per pixel (from {source}); expected {low:g} to {high:g}, the range of tissue microscopy; "
            f"{REMEDY}",
        )
    return float(mpp)


def _check_square(slide: Slide, source: str) -> None:
    """Refuse pixels whose sides differ; readers record both sides where the file does."""
    x, y = (slide.properties.get(key) for key in ("mpp_x", "mpp_y"))
    if x is None or y is None:
        return
    mpp_x, mpp_y = float(x), float(y)
    if abs(mpp_x - mpp_y) > ISOTROPY * min(mpp_x, mpp_y):
        raise MissingMppError(
            slide.path,
            f"{mpp_x:g} um per pixel in x but {mpp_y:g} in y (from {source}); expected square pixels (within "
            f"{ISOTROPY:.1%}); resample the slide, or {REMEDY}",
        )
