"""Mean and mean square of the colours of squares, straight from the pixels, as `NullBackbone` gives them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.model.null import NullBackbone
from wsi_vmamba.slide.workers import run_all

_COLOURS = 3
#: Squares down a band, the piece that one thread takes at a time.
_BAND_SQUARES = 16


def colour_moments(pixels: NDArray[np.uint8], *, square_px: int) -> NDArray[np.float32]:
    """Mean and mean square of each normalised colour over squares of pixels.

    Sums are whole numbers and exact; only the normalisation at the end rounds.

    Args:
        pixels: uint8 RGB (H, W, 3).
        square_px: side of a square, at most 256; squares at the border average what they have.

    Returns:
        float32 (ceil(H / square_px), ceil(W / square_px), 6): three means, then three mean squares.
    """
    height, width = pixels.shape[:2]
    rows, columns = -(-height // square_px), -(-width // square_px)
    sums = np.empty((rows, columns, 2 * _COLOURS))
    # Adds up the columns of pixels that lie in one square, colour by colour.
    fold = np.kron(np.ones((square_px, 1)), np.eye(_COLOURS))

    def add_up(first: int) -> None:
        scratch = _Scratch(width, columns * square_px)
        for row in range(first, min(first + _BAND_SQUARES, rows)):
            band = pixels[row * square_px : (row + 1) * square_px].reshape(-1, width * _COLOURS)
            linear, square = scratch.sum_rows(band)
            sums[row, :, :_COLOURS] = linear.reshape(columns, -1) @ fold
            sums[row, :, _COLOURS:] = square.reshape(columns, -1) @ fold

    run_all(add_up, range(0, rows, _BAND_SQUARES))
    return _normalise(sums, _counts(height, square_px)[:, None] * _counts(width, square_px))


class _Scratch:
    """Sums down the rows of a band, and of their squares; zeros right of the picture fill up the last square."""

    def __init__(self, width_px: int, padded_px: int) -> None:
        self._used = width_px * _COLOURS
        self._linear = np.zeros(padded_px * _COLOURS)
        # float32 is exact here: 256 squares of 255 are less than 2**24.
        self._square = np.zeros((1, padded_px * _COLOURS), dtype=np.float32)

    def sum_rows(self, band: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums and sums of squares down each column of ``band`` (n, width * 3)."""
        self._linear[: self._used] = band.sum(axis=0, dtype=np.uint16)
        square = self._square[:, : self._used]
        square[:] = 0
        for row in range(len(band)):
            cv2.accumulateSquare(band[row : row + 1], square)
        return self._linear, self._square.astype(np.float64)


def _counts(length_px: int, square_px: int) -> NDArray[np.int64]:
    """Pixels in each square along one axis."""
    edges = np.append(np.arange(0, length_px, square_px), length_px)
    counts: NDArray[np.int64] = np.diff(edges)
    return counts


def _normalise(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Moments of (colour / 255 - mean) / std, from sums of colours and of their squares, 0 to 255."""
    mean, std = np.array(NullBackbone.mean), np.array(NullBackbone.std)
    first = sums[..., :_COLOURS] / counts[..., None] / 255
    second = sums[..., _COLOURS:] / counts[..., None] / 255**2
    centred = np.concatenate([(first - mean) / std, (second - 2 * mean * first + mean**2) / std**2], axis=-1)
    return centred.astype(np.float32)
