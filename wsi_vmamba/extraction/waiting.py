"""Slides that other runs are processing: they come last, when those runs are through with them or dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from wsi_vmamba.extraction.outcomes import CLAIMED, Outcome
from wsi_vmamba.extraction.sources import SlideSource
from wsi_vmamba.progress import News

#: Seconds between two looks at slides that another run is processing: the first, and the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


def until_unclaimed(
    sources: Sequence[SlideSource],
    extract: Callable[[Sequence[SlideSource]], Iterable[tuple[SlideSource, Outcome]]],
    *,
    report: Callable[[News], None],
) -> Iterator[Outcome]:
    """Yield the outcome of every slide; those that other runs are processing come last.

    Args:
        sources: the slides.
        extract: tries slides and gives each one's outcome, `CLAIMED` where another run is processing it.
        report: is told once of each slide that has to wait.
    """
    pause_s = _FIRST_PAUSE_S
    waiting = sources
    while waiting:
        claimed = []
        for source, outcome in extract(waiting):
            if outcome.outcome != CLAIMED:
                yield outcome
                continue
            claimed.append(source)
            if pause_s == _FIRST_PAUSE_S:
                report(News(slide_id=source.slide_id, note=f"{outcome.detail}; later"))
        if claimed:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        waiting = claimed
