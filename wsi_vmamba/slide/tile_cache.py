"""Decoded tiles of which a read needed only a part: the rest is what its neighbours will ask for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: (slide, level, number of the tile); the slide is any object that no other slide shares.
Key = tuple[object, int, int]


class TileCache:
    """The tiles used last, up to a number of bytes; may be used from any thread.

    Tiles that a read uses whole do not belong here: nobody needs them soon, and keeping them would cost fresh memory
    for each.
    """

    def __init__(self, capacity_bytes: int) -> None:
        """Begin empty."""
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self._tiles: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> NDArray[np.uint8] | None:
        """Pixels of a tile, not to be written to; None where they are not here."""
        with self._lock:
            pixels = self._tiles.get(key)
            if pixels is not None:
                self._tiles.move_to_end(key)
            return pixels

    def put(self, key: Key, pixels: NDArray[np.uint8]) -> None:
        """Keep a tile and drop those not used for longest; one that would drop most of the others is not kept."""
        if 4 * pixels.nbytes > self.capacity_bytes:
            return
        with self._lock:
            if key in self._tiles:  # another thread decoded it at the same time
                return
            self._tiles[key] = pixels
            self.held_bytes += pixels.nbytes
            while self.held_bytes > self.capacity_bytes:
                _, dropped = self._tiles.popitem(last=False)
                self.held_bytes -= dropped.nbytes

    def forget(self, slide: object) -> None:
        """Drop all tiles of a slide."""
        with self._lock:
            for key in [key for key in self._tiles if key[0] is slide]:
                self.held_bytes -= self._tiles.pop(key).nbytes


#: One for all open slides, so that their number does not matter: 160 tiles of 512 px.
TILES = TileCache(128 << 20)


#: Pixels of a strip worth keeping; smaller ones are decoded again sooner than looked up among many.
LARGE_PX = 4 << 20


class LastStrip:
    """Holds the large strip that was decoded last: it may be the whole slide, and every read needs a part of it.

    Safe to use from several threads, which then take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[int, int] | None = None
        self._pixels: NDArray[np.uint8] | None = None

    def get(
        self, key: tuple[int, int], decode: Callable[[], NDArray[np.uint8] | None]
    ) -> NDArray[np.uint8] | None:
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
