"""Areas to masks, exactly: a pixel belongs to an area where its centre does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError


def draw(region: Any, *, width_px: int, height_px: int, downsample: float) -> NDArray[np.bool_]:
    """Draw an area.

    Args:
        region: shapely geometry in level-0 pixels, valid; only its polygons are drawn.
        width_px: width of the mask.
        height_px: height of the mask.
        downsample: level-0 pixels per mask pixel.

    Returns:
        bool, shape (height_px, width_px): True where the centre of the mask pixel, level-0
        ((column + 0.5) * downsample, (row + 0.5) * downsample), lies in the area.
    """
    if width_px <= 0 or height_px <= 0 or not downsample > 0:
        raise UsageError(
            f"a mask needs a positive size and downsample, got {width_px} x {height_px} at {downsample}"
        )
    rings = [ring / downsample for ring in _rings(region)]
    return fill_even_odd(rings, width_px=width_px, height_px=height_px)


def _rings(geometry: Any) -> Iterator[NDArray[np.float64]]:
    """Every closed ring of a geometry, outer and inner alike, shape (n, 2), first vertex repeated last."""
    for part in shapely.get_parts(geometry):
        if isinstance(part, shapely.Polygon):
            for ring in shapely.get_rings(part):
                yield shapely.get_coordinates(ring)


def fill_even_odd(
    rings: Sequence[NDArray[np.float64]], *, width_px: int, height_px: int
) -> NDArray[np.bool_]:
    """Fill closed rings, in mask pixels, by the even-odd rule at pixel centres."""
    flips = np.zeros((height_px, width_px + 1), dtype=np.uint8)
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            low, high = (y0, y1) if y0 < y1 else (y1, y0)
            # Rows whose centre lies in [low, high): half open, so that a shared vertex counts once.
            first, last = max(0, math.ceil(low - 0.5)), min(height_px, math.ceil(high - 0.5))
            if first >= last:
                continue
            rows = np.arange(first, last)
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(x - 0.5), 0, width_px).astype(np.int64)
            # Within one edge every row occurs once, so plain indexing does not lose a flip.
            flips[rows, columns] ^= 1
    filled: NDArray[np.bool_] = np.bitwise_xor.accumulate(flips, axis=1)[:, :width_px].astype(np.bool_)
    return filled
