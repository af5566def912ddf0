"""Slides through a model, one after the other: what ends one does not end the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from wsi_vmamba.errors import AnnotationError, MemoryLimitError, SlideError, StoreError
from wsi_vmamba.extraction.sources import SlideSource, refuse_unusable, require_there
from wsi_vmamba.slide import ResolvedMpp, Slide, open_slide, resolve_mpp

#: What ends a slide.
_FAULTS = (SlideError, StoreError, AnnotationError, MemoryLimitError)
DONE, ALREADY_DONE, FAILED = "done", "already done", "failed"


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """What became of a slide.

    Attributes:
        slide_id: its name.
        outcome: "done", "already done", or "failed".
        detail: why it failed, or what was noted.
        outlines: its GeoJSON; None where there is none.
        seconds: that it took.
    """

    slide_id: str
    outcome: str
    detail: str = ""
    outlines: Path | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there is nothing of it."""
        return self.outcome == FAILED


class HasName(Protocol):
    """A slide that is to be worked on."""

    @property
    def slide_id(self) -> str:
        """Its name."""
        ...


Row = TypeVar("Row", bound=SlideRow)
Named = TypeVar("Named", bound=HasName)


def each_slide(slides: Iterable[Named], work: Callable[[Named], Row], *, kind: type[Row]) -> Iterator[Row]:
    """Work on each slide; give what became of it.

    Args:
        slides: anything with a name.
        work: gives the row of a slide.
        kind: of the rows, for slides that failed.
    """
    for slide in slides:
        began = time.perf_counter()
        try:
            row = work(slide)
        except _FAULTS as error:
            detail = error.message if isinstance(error, SlideError) else str(error)
            row = kind(slide_id=slide.slide_id, outcome=FAILED, detail=detail)
        yield row if row.outcome == ALREADY_DONE else replace(row, seconds=time.perf_counter() - began)


@contextmanager
def opened(source: SlideSource, *, mpp_override: float | None) -> Iterator[tuple[Slide, ResolvedMpp]]:
    """A slide with its resolution: what was given, else what a table of slides or the file says.

    Raises:
        SlideError: it is not there, cannot be read, or has no resolution.
    """
    refuse_unusable(source)
    require_there(source)
    with open_slide(source.path) as slide:
        yield slide, resolve_mpp(slide, mpp_override=mpp_override or source.mpp)


def failures(rows: Sequence[SlideRow]) -> list[tuple[str, str]]:
    """Slides of which there is nothing, with the cause."""
    return [(row.slide_id, row.detail) for row in rows if row.failed]
