"""Smooth random fields: periodic ones for textures, plain ones for anatomy."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


def periodic_noise(
    rng: np.random.Generator, *, side_px: int, grain_px: float, stretch: float = 1.0
) -> FloatArray:
    """Noise that tiles without a seam, shape (side_px, side_px), mean 0 and standard deviation 1.

    ``grain_px`` is the size of its features, ``stretch`` how many times longer they are along x.
    """
    rows = max(2, round(side_px / grain_px))
    columns = max(2, round(side_px / (grain_px * stretch)))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    pad = 2
    wrapped = np.pad(coarse, pad, mode="wrap")
    scale_x, scale_y = side_px / columns, side_px / rows
    matrix = np.array(
        [[1 / scale_x, 0, pad - 0.5 + 0.5 / scale_x], [0, 1 / scale_y, pad - 0.5 + 0.5 / scale_y]]
    )
    fine = cv2.warpAffine(
        wrapped,
        matrix,
        (side_px, side_px),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return _standardise(np.asarray(fine, dtype=np.float32))


def smooth_noise(rng: np.random.Generator, *, width: int, height: int, grain: float) -> FloatArray:
    """Noise without a period, shape (height, width), mean 0 and deviation 1; ``grain`` in samples."""
    rows, columns = int(height / grain) + 4, int(width / grain) + 4
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    fine = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    y0, x0 = (fine.shape[0] - height) // 2, (fine.shape[1] - width) // 2
    return _standardise(np.asarray(fine[y0 : y0 + height, x0 : x0 + width], dtype=np.float32))


def _standardise(field: FloatArray) -> FloatArray:
    spread = float(field.std())
    return np.asarray((field - field.mean()) / max(spread, 1e-6), dtype=np.float32)
