"""A rectangle resampled to a square by the same antialiased cubic that features are extracted with."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.rescale import compiled, reference
from wsi_vmamba.rescale.rescaler import Method
from wsi_vmamba.rescale.taps import COLUMN_BITS, ROW_BITS, Taps, taps_of

Picture = NDArray[np.uint8]


def resample(picture: Picture, *, side_px: int) -> Picture:
    """Make a picture a square; beyond its edges its last pixels go on. The same bytes on every machine.

    Args:
        picture: uint8 RGB, (height, width, 3); width and height may be scaled differently.
        side_px: side of the square.

    Returns:
        uint8 RGB, (side_px, side_px, 3).
    """
    out = np.empty((side_px, side_px, 3), dtype=np.uint8)
    fill = _columns(picture.shape[1], side_px).prepare(_taps(picture.shape[0], side_px, ROW_BITS))
    fill(np.ascontiguousarray(picture), 0, out)
    return out


@lru_cache(maxsize=1024)
def _columns(width_px: int, side_px: int) -> Method:
    """Prepared for pictures of one width; there are as many as sides of crops in whole pixels."""
    cubic = compiled.Cubic if compiled.available else reference.Cubic
    return cubic(_taps(width_px, side_px, COLUMN_BITS))


@lru_cache(maxsize=2048)
def _taps(length_px: int, count_px: int, bits: int) -> Taps:
    """Taps of ``count_px`` target pixels over a whole length; weights beyond its ends go to its last pixels."""
    scale = length_px / count_px
    if scale == round(scale):
        scale = math.nextafter(scale, math.inf)  # there taps would be for plain means, which need no weights
    free = taps_of(0, count_px, scale=scale, bits=bits)
    taps_px = min(free.weights.shape[1], length_px)
    sources = np.clip(free.first[:, None] + np.arange(free.weights.shape[1]), 0, length_px - 1)
    # The first of all is 0 and the last ends at the end, so that a block is the whole picture.
    first = np.clip(free.first, 0, length_px - taps_px)
    weights = np.zeros((count_px, taps_px), dtype=np.float32)
    np.add.at(weights, (np.arange(count_px)[:, None], sources - first[:, None]), free.weights)
    return Taps(first=first, weights=weights)
