"""One decoded strip kept for the next read: a strip may be the whole slide, and every read needs a part of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Pixels of a strip worth keeping; smaller ones are decoded again sooner than looked up among many.
LARGE_PX = 4 << 20

Pixels = NDArray[np.uint8]


class LastStrip:
    """Holds the large strip that was decoded last. Safe to use from several threads, which then take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[int, int] | None = None
        self._pixels: Pixels | None = None

    def get(self, key: tuple[int, int], decode: Callable[[], Pixels | None]) -> Pixels | None:
        """Return the strip of that (level, index), decoded now unless it was the last."""
        with self._lock:
            if key != self._key:
                # Let go of the old one first: two of them may not fit.
                self._key, self._pixels = None, None
                self._pixels = decode()
                self._key = key
            return self._pixels

    def clear(self) -> None:
        """Let go of the strip."""
        with self._lock:
            self._key, self._pixels = None, None
