"""What a slide classifier learns from: labels of slides, outlines of tumour, or both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Which parts a classifier has; each has the loss that belongs to it.

    Attributes:
        slides: an aggregator, trained from the labels of slides.
        cells: a head that gives each cell a tumour probability, trained from outlines.
    """

    slides: bool
    cells: bool


SLIDE = Supervision(slides=True, cells=False)
DENSE = Supervision(slides=False, cells=True)
BOTH = Supervision(slides=True, cells=True)
