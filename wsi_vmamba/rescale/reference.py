"""The cubic as matrix products in numpy, for machines without the compiled module and as its reference.

Of the second pass two thirds multiply zeros, because colours are interleaved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.rescale.taps import COLUMN_BITS, FRACTION_BITS, ROW_BITS, FillBlock, Taps

#: Target pixels per matrix: a narrow band wastes little on zeros.
_BAND_PX = 16
#: Multiply-adds of one matrix product. OpenBLAS starts its own threads above 2**18, which would fight with ours
#: (four times slower when measured).
_PRODUCT_SIZE = 2**18


@dataclass(frozen=True, eq=False, kw_only=True)
class _Band:
    """A few neighbouring target pixels as one dense matrix over the source pixels ``start`` to ``stop``."""

    start: int
    stop: int
    matrix: NDArray[np.float32]


class Cubic:
    """Both passes as products with narrow bands of the weights."""

    def __init__(self, columns: Taps) -> None:
        """Prepare for target columns."""
        self._first = columns.first
        self._bands = _bands(columns, colours=3)

    def prepare(self, rows: Taps) -> FillBlock:
        """Prepare for target rows; columns given later are multiples of 16."""
        row_bands = _bands(rows, colours=1)
        height = len(rows.first)

        def fill(block: NDArray[np.uint8], column: int, target: NDArray[np.uint8]) -> None:
            bands = self._bands[column // _BAND_PX : (column + target.shape[1] - 1) // _BAND_PX + 1]
            mixed = _down_rows(block, row_bands, height=height)
            _along_columns(mixed, bands, int(self._first[column]), target)

        return fill


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
    """First pass: float32, shape (target rows, source columns * 3), grey levels times 2**FRACTION_BITS."""
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
    out *= 2.0 ** (FRACTION_BITS - ROW_BITS)
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
        mixed *= 2.0 ** -(FRACTION_BITS + COLUMN_BITS)
        np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed)
        target[:, i * _BAND_PX : (i + 1) * _BAND_PX] = mixed.reshape(height, -1, 3)
