"""What was made last, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Values by key; those not used for longest go first. May be used from any thread."""

    def __init__(self, capacity_bytes: int) -> None:
        """Begin empty."""
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """A value; None where it is not here."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: V, size_bytes: int) -> None:
        """Keep a value; one that would drop most of the others is not kept."""
        if 4 * size_bytes > self.capacity_bytes:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                self.held_bytes -= before[1]
            self._kept[key] = (value, size_bytes)
            self.held_bytes += size_bytes
            while self.held_bytes > self.capacity_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.held_bytes -= dropped
