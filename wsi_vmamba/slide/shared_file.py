"""A file that many threads read at once and one may close."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.jpeg import DamagedTileError


class SharedFile:
    """Positional reads without a common file position; closing waits until running reads are done."""

    def __init__(self, path: str | Path) -> None:
        """Open for reading.

        Raises:
            UnreadableSlideError: the file cannot be opened.
        """
        self.path = str(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.size_bytes = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise UnreadableSlideError(path, f"cannot open the file ({error.strerror})") from error
        self._readers = 0
        self._closed = False
        self._idle = threading.Condition()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the file open for the duration; inside, `read_at` may be called from any thread.

        Raises:
            UnreadableSlideError: the file is closed.
        """
        with self._idle:
            if self._closed:
                raise UnreadableSlideError(self.path, "the slide is closed; open it again to read")
            self._readers += 1
        try:
            yield
        finally:
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; fewer where the file ends. Call inside `reading`."""
        data = os.pread(self._descriptor, length, offset)
        while 0 < len(data) < length and (
            more := os.pread(self._descriptor, length - len(data), offset + len(data))
        ):
            data += more
        return data

    def read_head(self, offset: int, length: int) -> bytes:
        """The same at an offset that the file claims; nothing beyond its end.

        Raises:
            UnreadableSlideError: the system cannot read it.
        """
        if offset >= self.size_bytes:  # also where it is too large for the system to be asked
            return b""
        try:
            return self.read_at(offset, length)
        except OSError as error:
            raise UnreadableSlideError(self.path, f"cannot read the file ({error.strerror})") from error

    def close(self) -> None:
        """Wait for running reads, then close; closing again does nothing."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._readers == 0)
            os.close(self._descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()


def failed_read(path: object, error: OSError) -> DamagedTileError | UnreadableSlideError:
    """What to raise where the data of a tile cannot be read.

    A bad sector harms that tile; anything else, such as a server that went away, the whole slide.
    """
    if error.errno == errno.EIO:
        return DamagedTileError(f"the disk cannot read it ({error.strerror})")
    return UnreadableSlideError(
        path, f"reading failed in the middle ({error.strerror}); is its disk still there?"
    )
