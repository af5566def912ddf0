"""A coarse picture of a whole slide that lacks small levels: first from a few of its squares, then from all.

To see a slide of 6 gigapixels at once, every stored tile of it has to be decoded, which takes many seconds. A few
hundred squares that are spread over it take some hundredths; they are read first, then those between them, and so on
until all are read. What is not read yet shows the mean colour of the nearest square that is, and grey where there is
none: nothing is drawn that does not lie in the slide, and who asks is told how much of it has been read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.view.made_parts import Part

#: Left, top, right and bottom, in pixels of the level that is read.
Box = tuple[int, int, int, int]
#: What stands where nothing is known yet: no glass is so dark, and no stain so grey.
UNKNOWN = 190
#: Squares that are taken at once; between two takes others may have a turn.
_TAKEN = 32
#: Rows of squares that are filled at once: little memory.
_FILLED_ROWS = 32
#: The first pass has about so many squares.
_FIRST_SQUARES = 256


class CoarsePicture:
    """The whole of a level, many times smaller. May be used, and read on, from any thread."""

    def __init__(self, *, width_px: int, height_px: int, square_px: int, shrink: int) -> None:
        """Begin with nothing read.

        Args:
            width_px: of the level that is read.
            height_px: of the level that is read.
            square_px: side of the squares in which it is read, a multiple of ``shrink``.
            shrink: pixels of that level, along one side, in one pixel of this picture.
        """
        self.shrink, self._square_px, self._size_px = shrink, square_px, (width_px, height_px)
        rows, columns = -(-height_px // square_px), -(-width_px // square_px)
        self.pixels = np.full((-(-height_px // shrink), -(-width_px // shrink), 3), UNKNOWN, dtype=np.uint8)
        self._means = np.zeros((rows, columns, 3), dtype=np.uint8)
        self._is_read = np.zeros((rows, columns), dtype=bool)
        self._is_damaged = np.zeros((rows, columns), dtype=bool)
        self._strides = _strides(rows, columns)
        self._order = _order(rows, columns, self._strides)
        self._next = 0
        #: Whether there is something to see.
        self.is_begun = False
        self._given_back: list[int] = []
        self._lock = threading.Lock()

    @property
    def read_share(self) -> float:
        """How much of the slide has been read, from 0 to 1."""
        return float(np.count_nonzero(self._is_read)) / self._is_read.size

    @property
    def is_complete(self) -> bool:
        """Whether all of it has been read."""
        return bool(self._is_read.all())

    @property
    def is_all_taken(self) -> bool:
        """Whether all of it has been read or is being read."""
        with self._lock:
            return self._next == len(self._order) and not self._given_back

    def is_damaged(self, box: Box) -> bool:
        """Whether something of a rectangle, in pixels of this picture, is damaged."""
        side = self._square_px // self.shrink
        left, top, right, bottom = box
        found = self._is_damaged[top // side : -(-bottom // side), left // side : -(-right // side)]
        return bool(found.any())

    def try_damage_again(self) -> None:
        """Read what was damaged once more: it may have been of the moment, as of a disk that is coming back."""
        with self._lock:
            again = np.flatnonzero(self._is_damaged)
            self._is_read.flat[again] = False
            self._is_damaged.flat[again] = False
            self._given_back += [int(square) for square in again]

    def read_on(self, read: Callable[[Box], Part], *, seconds: float, first_pass_only: bool = False) -> None:
        """Read more of it, for about so long, and show what is there.

        Args:
            read: pixels of a rectangle of the level, ``shrink`` times smaller, and whether some are damaged.
            seconds: the time to stop after; at least a few squares are read.
            first_pass_only: whether to stop when the first few squares all over the slide have been read.

        Raises:
            UnreadableSlideError: whatever ``read`` raises; the squares are left for the next one.
        """
        until = time.monotonic() + seconds
        while squares := self._take():
            try:
                while squares:
                    self._put(squares[-1], read)
                    squares.pop()
            finally:
                with self._lock:
                    self._given_back += squares
            if time.monotonic() >= until or (first_pass_only and self._is_passed(self._strides[0])):
                break
        self._fill()
        self.is_begun = True

    def _is_passed(self, stride: int) -> bool:
        """Whether every ``stride``-th square has been read."""
        return bool(self._is_read[::stride, ::stride].all())

    def _take(self) -> list[int]:
        with self._lock:
            if self._given_back:
                taken, self._given_back = self._given_back[:_TAKEN], self._given_back[_TAKEN:]
                return taken
            begin, self._next = self._next, min(self._next + _TAKEN, len(self._order))
            # Taken from the end, so that the first in order is read first.
            return [int(square) for square in self._order[begin : self._next][::-1]]

    def _put(self, square: int, read: Callable[[Box], Part]) -> None:
        row, column = divmod(square, self._is_read.shape[1])
        side, small = self._square_px, self._square_px // self.shrink
        left, top = column * side, row * side
        right, bottom = min(left + side, self._size_px[0]), min(top + side, self._size_px[1])
        pixels, is_damaged = read((left, top, right, bottom))
        with self._lock:  # so that no fill of another thread is laid over it
            y, x = row * small, column * small
            self.pixels[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
            self._means[row, column] = cv2.mean(pixels)[:3]
            self._is_damaged[row, column] = is_damaged
            self._is_read[row, column] = True

    def _fill(self) -> None:
        """Show the nearest square of the last pass that is done, where a square has not been read."""
        with self._lock:
            stride = min((s for s in self._strides if self._is_passed(s)), default=None)
            if stride is None or self._is_read.all():
                return
            rows, columns = (_nearest(count, stride) for count in self._is_read.shape)
            for top in range(0, len(rows), _FILLED_ROWS):
                missing = ~self._is_read[top : top + _FILLED_ROWS]
                if missing.any():
                    self._fill_band(
                        top, missing, self._means[np.ix_(rows[top : top + _FILLED_ROWS], columns)]
                    )

    def _fill_band(self, top: int, missing: NDArray[np.bool_], colours: NDArray[np.uint8]) -> None:
        """Rows of squares from ``top`` on: which have not been read, and what to show for them."""
        small = self._square_px // self.shrink
        band = self.pixels[top * small : (top + len(missing)) * small]
        size = (missing.shape[1] * small, missing.shape[0] * small)
        mask = cv2.resize(missing.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        wide = cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)
        height, width = band.shape[:2]
        cv2.copyTo(wide[:height, :width], mask[:height, :width], band)


def _strides(rows: int, columns: int) -> list[int]:
    """Steps from square to square, of each pass, halved from one to the next."""
    first = 1 << max(0, round(math.log2(max(1.0, rows * columns / _FIRST_SQUARES)) / 2))
    while first > 1 and first > max(rows, columns):
        first //= 2
    return [first >> pass_ for pass_ in range(first.bit_length())]


def _order(rows: int, columns: int, strides: list[int]) -> NDArray[np.int64]:
    """Every square once, as row * columns + column, pass after pass."""
    first_pass = np.full((rows, columns), len(strides), dtype=np.int64)
    for number, stride in reversed(list(enumerate(strides))):
        first_pass[::stride, ::stride] = number
    return np.argsort(first_pass, axis=None, kind="stable")


def _nearest(count: int, stride: int) -> NDArray[np.int64]:
    """For each of ``count`` squares in a line, the nearest of every ``stride``-th."""
    at = (np.arange(count) + stride // 2) // stride * stride
    return np.minimum(at, (count - 1) // stride * stride)
