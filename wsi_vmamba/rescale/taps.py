"""Which source pixels make each target pixel along one axis, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Bits of the weights down the rows, of the fraction kept between the passes, and of the weights along columns:
#: 255 * 1.25 (the cubic's largest sum of absolute weights) * 2**15 < 2**24, and 1.25 times that in pass two.
ROW_BITS, FRACTION_BITS, COLUMN_BITS = 15, 2, 13

#: From the ``block`` of source pixels under it (uint8, shape (h, w, 3)), fills ``target`` (uint8, shape
#: (rows, columns, 3)), whose first column is ``column`` of the rectangle: called as (block, column, target).
FillBlock = Callable[[NDArray[np.uint8], int, NDArray[np.uint8]], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Taps:
    """Which source pixels make each target pixel along one axis.

    Attributes:
        first: int64, shape (n,): first source pixel of each target pixel; never falls.
        weights: float32, shape (n, taps): whole numbers, each row sums to a power of two.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def end(self) -> NDArray[np.int64]:
        """One past the last source pixel of each target pixel, shape (n,)."""
        ends: NDArray[np.int64] = self.first + self.weights.shape[1]
        return ends


def is_whole(scale: float) -> bool:
    """Whether target pixels are exact blocks of source pixels."""
    return scale == round(scale)


def source_range(start_px: int, count_px: int, *, scale: float) -> tuple[int, int]:
    """First and one past the last source pixel that ``count_px`` target pixels from ``start_px`` on are made of."""
    if is_whole(scale):
        return round(start_px * scale), round((start_px + count_px) * scale)
    first, last = (taps_of(at, 1, scale=scale, bits=ROW_BITS) for at in (start_px, start_px + count_px - 1))
    return int(first.first[0]), int(last.end[0])


def taps_of(start_px: int, count_px: int, *, scale: float, bits: int) -> Taps:
    """Taps of the target pixels from ``start_px`` of the canvas on, along either axis; weights sum to 2**bits."""
    x = np.arange(start_px, start_px + count_px, dtype=np.float64)
    if is_whole(scale):
        # Only the extent matters: whole scales are averaged without weights.
        ones = np.ones((count_px, round(scale)), dtype=np.float32)
        return Taps(first=(x * scale).astype(np.int64), weights=ones)
    stretch = max(scale, 1.0)
    centre = (x + 0.5) * scale - 0.5
    first = np.ceil(centre - 2 * stretch)
    offsets = np.arange(math.ceil(4 * stretch) + 1)
    weights = _catmull_rom((first[:, None] + offsets - centre[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.rint(weights * 2**bits)
    # The largest tap takes what rounding left, so that a flat area keeps its value exactly.
    whole[np.arange(count_px), weights.argmax(axis=1)] += 2**bits - whole.sum(axis=1)
    return Taps(first=first.astype(np.int64), weights=whole.astype(np.float32))


def _catmull_rom(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -1/2, zero beyond 2."""
    t = np.abs(t)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
