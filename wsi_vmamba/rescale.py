"""Resampling with a global phase: a target pixel depends on the slide and its own coordinates only.

Target pixel X has its centre at (X + 0.5) * scale in source pixels. Whole scales are area means; any other
scale uses the Catmull-Rom cubic, widened by the scale so that nothing aliases. Weights are whole numbers and
every sum stays below 2**24, so float32 matrix products are exact whatever order a BLAS adds in: the same target
pixel has the same bytes through any rectangle it is read in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

#: Calls a function on each number, possibly in parallel, and returns when all are done.
RunAll = Callable[[Callable[[int], None], Sequence[int]], None]

#: Bits of the weights down the rows, of the fraction kept between the passes, and of the weights along columns:
#: 255 * 1.25 (the cubic's largest sum of absolute weights) * 2**15 < 2**24, and 1.25 times that in pass two.
_ROW_BITS, _FRACTION_BITS, _COLUMN_BITS = 15, 2, 13
#: Target pixels per matrix: a narrow band wastes little on zeros.
_BAND_PX = 16
#: Target columns per task: its float32 scratch stays in the cache.
_TASK_PX = 256
#: Multiply-adds of one matrix product. OpenBLAS starts its own threads above 2**18, which would fight with ours
#: (four times slower when measured).
_PRODUCT_SIZE = 2**18


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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Band:
    """A few neighbouring target pixels as one dense matrix over the source pixels ``start`` to ``stop``."""

    start: int
    stop: int
    matrix: NDArray[np.float32]


class Rescaler:
    """Makes one rectangle of the target canvas from the source pixels under it, any rows at a time.

    Attributes:
        left: first source column needed; right: one past the last.
        right: one past the last source column needed.
        rows: which source rows make each target row of the rectangle.
    """

    def __init__(self, *, x_px: int, y_px: int, width_px: int, height_px: int, scale: float) -> None:
        """Prepare for a rectangle of target pixels; ``scale`` is source pixels per target pixel."""
        self._scale = scale
        self.rows = _taps(y_px, height_px, scale=scale, bits=_ROW_BITS)
        columns = _taps(x_px, width_px, scale=scale, bits=_COLUMN_BITS)
        self.left, self.right = int(columns.first[0]), int(columns.end[-1])
        self._columns = columns
        self._column_bands = [] if is_whole(scale) else _bands(columns, colours=3)

    def fill(
        self,
        out: NDArray[np.uint8],
        source: NDArray[np.uint8],
        *,
        start: int,
        stop: int,
        source_y_px: int,
        run_all: RunAll,
    ) -> None:
        """Fill target rows ``start`` to ``stop`` (exclusive, counted from the rectangle's top).

        Args:
            out: uint8, shape (height_px, width_px, 3), the whole rectangle.
            source: uint8, shape (h, right - left, 3): whole rows of the level, from column ``left``.
            start: first target row.
            stop: one past the last target row.
            source_y_px: level row of the source's first row.
            run_all: runs the tasks; each writes columns of its own.
        """
        rows = Taps(first=self.rows.first[start:stop], weights=self.rows.weights[start:stop])
        top, bottom = int(rows.first[0]), int(rows.end[-1])
        source = source[top - source_y_px : bottom - source_y_px]
        row_bands = [] if is_whole(self._scale) else _bands(rows, colours=1)

        def task(column: int) -> None:
            target = out[start:stop, column : column + _TASK_PX]
            last = column + target.shape[1] - 1
            left, right = int(self._columns.first[column]), int(self._columns.end[last])
            block = source[:, left - self.left : right - self.left]
            if is_whole(self._scale):
                target[:] = cv2.resize(block, target.shape[1::-1], interpolation=cv2.INTER_AREA)
                return
            bands = self._column_bands[column // _BAND_PX : last // _BAND_PX + 1]
            _along_columns(_down_rows(block, row_bands, height=stop - start), bands, left, target)

        run_all(task, range(0, out.shape[1], _TASK_PX))


def is_whole(scale: float) -> bool:
    """Whether target pixels are exact blocks of source pixels."""
    return scale == round(scale)


def source_range(start_px: int, count_px: int, *, scale: float) -> tuple[int, int]:
    """First and one past the last source pixel that ``count_px`` target pixels from ``start_px`` on are made of."""
    if is_whole(scale):
        return round(start_px * scale), round((start_px + count_px) * scale)
    first, last = (_taps(at, 1, scale=scale, bits=_ROW_BITS) for at in (start_px, start_px + count_px - 1))
    return int(first.first[0]), int(last.end[0])


def _taps(start_px: int, count_px: int, *, scale: float, bits: int) -> Taps:
    """Taps of the target pixels from ``start_px`` of the canvas on, along either axis."""
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


def _bands(taps: Taps, *, colours: int) -> list[_Band]:
    """Cut the taps into bands; with 3 colours the matrices are transposed and act on interleaved RGB."""
    bands = []
    for at in range(0, len(taps.first), _BAND_PX):
        first, weights = taps.first[at : at + _BAND_PX], taps.weights[at : at + _BAND_PX]
        start, stop = int(first[0]), int(first[-1]) + weights.shape[1]
        dense = np.zeros((len(first), stop - start), dtype=np.float32)
        columns = (first - start)[:, None] + np.arange(weights.shape[1])
        dense[np.arange(len(first))[:, None], columns] = weights
        matrix = dense if colours == 1 else np.asarray(np.kron(dense.T, np.eye(colours)), dtype=np.float32)
        bands.append(_Band(start=start, stop=stop, matrix=matrix))
    return bands


def _down_rows(block: NDArray[np.uint8], bands: list[_Band], *, height: int) -> NDArray[np.float32]:
    """First pass: float32, shape (target rows, source columns * 3), grey levels times 2**_FRACTION_BITS."""
    top = bands[0].start
    flat = block.reshape(len(block), -1)
    # Zero columns at the end make whole chunks; a chunk is one product, all chunks one call.
    chunk = max(1, _PRODUCT_SIZE // bands[0].matrix.size)
    chunks = -(-flat.shape[1] // chunk)
    source = np.zeros((len(flat), chunks * chunk), dtype=np.float32)
    source[:, : flat.shape[1]] = flat
    out = np.empty((height, chunks * chunk), dtype=np.float32)
    for i, band in enumerate(bands):
        rows = source[band.start - top : band.stop - top].reshape(-1, chunks, chunk).swapaxes(0, 1)
        target = out[i * _BAND_PX : (i + 1) * _BAND_PX].reshape(-1, chunks, chunk).swapaxes(0, 1)
        np.matmul(band.matrix, rows, out=target)
    out *= 2.0 ** (_FRACTION_BITS - _ROW_BITS)
    return np.rint(out, out=out)


def _along_columns(
    block: NDArray[np.float32], bands: list[_Band], left: int, target: NDArray[np.uint8]
) -> None:
    """Second pass: from `_down_rows`, whose first column is level column ``left``, to grey levels."""
    height = len(block)
    for i, band in enumerate(bands):
        part = block[:, 3 * (band.start - left) : 3 * (band.stop - left)]
        mixed = np.empty((height, band.matrix.shape[1]), dtype=np.float32)
        chunk = max(1, _PRODUCT_SIZE // band.matrix.size)
        whole = height // chunk * chunk
        for rows in (slice(0, whole), slice(whole, height)):
            if rows.start < rows.stop:
                step = min(chunk, rows.stop - rows.start)
                stacked = part[rows].reshape(-1, step, part.shape[1])
                np.matmul(stacked, band.matrix, out=mixed[rows].reshape(-1, step, mixed.shape[1]))
        mixed *= 2.0 ** -(_FRACTION_BITS + _COLUMN_BITS)
        np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed)
        target[:, i * _BAND_PX : (i + 1) * _BAND_PX] = mixed.reshape(height, -1, 3)
