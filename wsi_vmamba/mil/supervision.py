"""What a slide classifier learns from: labels of slides, outlines of tumour, or both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Which parts a classifier has; each has the loss that belongs to it.

    Attributes:
        slides: an aggregator, trained from the labels of slides.
        patches: a head that gives each patch a tumour probability, trained from outlines.
    """

    slides: bool
    patches: bool


SLIDE = Supervision(slides=True, patches=False)
DENSE = Supervision(slides=False, patches=True)
BOTH = Supervision(slides=True, patches=True)
