"""Reads coarse pictures on in the background, for as long as somebody looks at them."""

from __future__ import annotations

import threading
import time

from wsi_vmamba.slide.workers import usable_cores
from wsi_vmamba.view.catalogue import Item
from wsi_vmamba.view.open_slides import OpenSlides
from wsi_vmamba.view.pool import BusyError, Pool

#: A slide of which nobody has asked for so long is not read on.
_WANTED_S = 15.0
#: How long a thread stays with one slide before it takes the next.
_TURN_S = 0.5


class ReadingOn:
    """A few threads that leave a core to those who wait for tiles."""

    def __init__(self, slides: OpenSlides, *, threads: int | None = None) -> None:
        """Start the threads.

        Args:
            slides: opens them.
            threads: how many.
        """
        self._slides = slides
        self._threads = threads or max(1, usable_cores() - 1)
        self._pool = Pool(self._threads, name="view-reading-on")
        self._wanted: dict[tuple[str, str], float] = {}
        self._running: dict[tuple[str, str], int] = {}
        self._failed: dict[tuple[str, str], BaseException] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def want(self, item: Item) -> None:
        """Read a slide on; to be said again at least every few seconds.

        Raises:
            UnreadableSlideError: it went away meanwhile; and whatever else kept it from being read on.
        """
        key = (item.row.id, item.stamp)
        with self._lock:
            if (error := self._failed.pop(key, None)) is not None:
                raise error
            self._wanted[key] = time.monotonic()
            missing = self._threads - self._running.get(key, 0)
            self._running[key] = self._threads
        for _ in range(missing):
            self._submit(item)

    def _submit(self, item: Item) -> None:
        try:
            self._pool.submit(lambda: self._turn(item))
        except BusyError:  # whoever looks at it will ask again
            self._leave((item.row.id, item.stamp))

    def _turn(self, item: Item) -> None:
        """Read one slide on for a moment, and stand in line again unless there is no more to read."""
        key = (item.row.id, item.stamp)
        has_more = False
        try:
            if not self._stopped.is_set() and time.monotonic() - self._wanted[key] < _WANTED_S:
                has_more = self._read_on(item)
        except BaseException as error:  # noqa: BLE001 - handed on to who asks next
            self._failed[key] = error
        if has_more:
            self._submit(item)
        else:
            self._leave(key)

    def _read_on(self, item: Item) -> bool:
        """Read; return whether there is more."""
        with self._slides.borrow(item.row, stamp=item.stamp) as picture:
            picture.read_on(seconds=_TURN_S)
            coarse = picture.coarse
            return coarse is not None and not coarse.is_all_taken

    def _leave(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
                self._wanted.pop(key, None)

    def close(self, *, wait_s: float = 0.0) -> bool:
        """End; return whether all threads have ended, for which it waits."""
        self._stopped.set()
        return self._pool.close(wait_s=wait_s)
