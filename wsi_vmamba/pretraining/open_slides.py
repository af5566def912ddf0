"""Slides that are read again and again, of which only some are open at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.slide.location import Location


@dataclass
class _Held:
    slide: Slide
    users: int = 0


class OpenSlides:
    """Opens slides as they are asked for and closes those not used for longest; for any number of threads.

    Slides in use stay open, so that at most ``limit`` plus one for each thread are open at a time.
    """

    def __init__(self, *, limit: int) -> None:
        """Begin with none open."""
        self._limit = limit
        self._lock = threading.Lock()
        self._held: OrderedDict[Location, _Held] = OrderedDict()

    def __len__(self) -> int:
        """How many are open."""
        return len(self._held)

    @contextmanager
    def use(self, path: Location) -> Iterator[Slide]:
        """The open slide, for the duration.

        Raises:
            UnreadableSlideError: it can no longer be opened.
        """
        with self._lock:
            held = self._held.get(path)
            if held is None:
                held = self._held[path] = _Held(open_slide(path))
            self._held.move_to_end(path)
            held.users += 1
            self._close_oldest()
        try:
            yield held.slide
        finally:
            with self._lock:
                held.users -= 1

    def _close_oldest(self) -> None:
        idle = [path for path, held in self._held.items() if held.users == 0]
        for path in idle[: max(0, len(self._held) - self._limit)]:
            self._held.pop(path).slide.close()

    def close(self) -> None:
        """Close all; to be called when nobody reads any more."""
        with self._lock:
            for held in self._held.values():
                held.slide.close()
            self._held.clear()
