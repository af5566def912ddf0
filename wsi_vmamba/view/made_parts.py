"""Parts of levels that slides lack: each is made once, however many ask at once, and the dearest are kept longest.

A part of a coarse level is made of all the finer ones under it. Were those that were used last kept, as in other
caches, the thousands of fine parts would push out the few coarse ones, and the whole slide read again for each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError

#: Pixels, and whether some of them are damaged.
Part = tuple[NDArray[np.uint8], bool]


class MadeParts:
    """Parts by key, up to a number of bytes. May be used from any thread."""

    def __init__(self, capacity_bytes: int) -> None:
        """Begin empty."""
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self._kept: dict[int, OrderedDict[Hashable, NDArray[np.uint8]]] = {}
        self._begun: dict[Hashable, Future[Part]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def part(self, key: Hashable, *, halvings: int, name: str, make: Callable[[], Part]) -> Part:
        """A part; made now where it is not here, or waited for where another thread makes it.

        Args:
            key: of the part.
            halvings: how many levels lie between it and the one that the slide has; the more, the longer it is kept.
            name: of the slide, for the error.
            make: makes it. A damaged part is not kept: damage may be of the moment, as of a disk that is coming back.

        Raises:
            UnreadableSlideError: the viewer is ending; and whatever ``make`` raises.
        """
        with self._lock:
            if self._stopped.is_set():
                raise UnreadableSlideError(name, "the viewer is ending")
            found = self._find(key, halvings)
            if found is not None:
                return found, False
            begun = self._begun.get(key)
            mine: Future[Part] | None = None
            if begun is None:
                begun = self._begun[key] = mine = Future()
        if mine is not None:
            self._make(mine, key, halvings, make)
        return begun.result()

    def stop(self) -> None:
        """Make no more."""
        self._stopped.set()

    def _find(self, key: Hashable, halvings: int) -> NDArray[np.uint8] | None:
        kept = self._kept.get(halvings)
        if kept is None or key not in kept:
            return None
        kept.move_to_end(key)
        return kept[key]

    def _make(self, mine: Future[Part], key: Hashable, halvings: int, make: Callable[[], Part]) -> None:
        try:
            made = make()
        except BaseException as error:  # noqa: BLE001 - handed on to all who wait for it, and to whoever made it
            with self._lock:
                del self._begun[key]
            mine.set_exception(error)
            return
        with self._lock:
            del self._begun[key]
            if not made[1]:
                self._keep(key, halvings, made[0])
        mine.set_result(made)

    def _keep(self, key: Hashable, halvings: int, pixels: NDArray[np.uint8]) -> None:
        self._kept.setdefault(halvings, OrderedDict())[key] = pixels
        self.held_bytes += pixels.nbytes
        while self.held_bytes > self.capacity_bytes:
            cheapest = self._kept[min(each for each, kept in self._kept.items() if kept)]
            _, dropped = cheapest.popitem(last=False)
            self.held_bytes -= dropped.nbytes
