"""What every made vendor file shows: a picture whose colours are those of tissue and name the pixel they lie at."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class VendorFile(NamedTuple):
    """A file and what must be read from it.

    Attributes:
        truth: the picture of each level that is known from what was written, by level; white where nothing was
            scanned. Readers may add levels of their own.
        tolerance: how far a value of ``truth`` may be off; 0 but for JPEG.
    """

    path: Path
    vendor: str
    mpp: float
    truth: dict[int, Pixels]
    tolerance: int = 0


def tissue(width: int, height: int) -> Pixels:
    """Purple everywhere, another one at every pixel."""
    y, x = np.mgrid[:height, :width]
    blocks = (x // 61 * 7 + y // 59 * 13) % 60
    return np.stack([110 + x % 61, 40 + y % 59, 150 + blocks], axis=-1).astype(np.uint8)


def on_white(width: int, height: int, *pieces: tuple[int, int, Pixels]) -> Pixels:
    """Lay pieces (x, y, pixels) onto white."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    for x, y, pixels in pieces:
        canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return canvas
