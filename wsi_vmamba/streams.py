"""Standard output and error that never end a command: a full disk or a closed pipe loses text, not features."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

from wsi_vmamba.text import ESCAPED


def guard_streams() -> None:
    """Make the standard streams of this process safe to print to; again does nothing.

    Letters that the encoding lacks are shown as escapes. What cannot be written is dropped, with a warning on standard
    error where standard output is lost. Streams that somebody else has put in their place are left alone.
    """
    _fill_closed_descriptors()
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, on_loss=lambda error: None)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, on_loss=_warn_of_loss)


class _LossyFile(io.RawIOBase):
    """The bytes of a stream; from the first that cannot be written on they are dropped."""

    def __init__(self, descriptor: int, on_loss: Callable[[OSError], None]) -> None:
        self._descriptor = descriptor
        self._on_loss = on_loss
        self._lost = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while not self._lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another program has made a pipe or terminal that we share non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._lost = True
                self._on_loss(error)
        return len(data)


def _guarded(stream: TextIO | None, *, on_loss: Callable[[OSError], None]) -> Any:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = _LossyFile(stream.fileno(), on_loss)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=ESCAPED,
        line_buffering=stream.line_buffering,
    )


def _warn_of_loss(error: OSError) -> None:
    if sys.stderr is not None:
        print(
            f"warning: standard output cannot be written any more ({error.strerror}); the command goes on without it",
            file=sys.stderr,
            flush=True,
        )


def _fill_closed_descriptors() -> None:
    """Open what is closed of descriptors 0 to 2, or the next file would get the number, and stray output its bytes."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
