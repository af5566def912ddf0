"""Squares of one size from pictures of any size: a random part for training, the middle for judging.

A clip is a picture of three channels a frame, and all its frames are cut alike.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

#: Area of the random part as a share of the picture, and ratio of its sides.
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
#: Side of the square that is judged, as a share of the short side of the picture.
MIDDLE = 224 / 256
_TRIES = 10


def random_square(rng: np.random.Generator, pixels: NDArray[np.uint8], *, side_px: int) -> NDArray[np.uint8]:
    """A random part of a picture (H, W, 3), resized to (side_px, side_px, 3)."""
    height, width = pixels.shape[:2]
    for _ in range(_TRIES):
        area = rng.uniform(*AREA) * height * width
        ratio = math.exp(rng.uniform(*np.log(RATIO)))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return _resized(pixels[top : top + rows, left : left + columns], side_px)
    return _resized(_square(pixels, 1.0), side_px)


def middle_square(pixels: NDArray[np.uint8], *, side_px: int) -> NDArray[np.uint8]:
    """The middle of a picture (H, W, 3), resized to (side_px, side_px, 3)."""
    return _resized(_square(pixels, MIDDLE), side_px)


def _square(pixels: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _resized(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (side_px, side_px):
        return pixels
    smaller = min(pixels.shape[:2]) > side_px
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    # OpenCV resizes four channels at most: the frames of a clip go one by one.
    frames = np.split(pixels, pixels.shape[2] // 3, axis=2)
    resized = [
        cv2.resize(np.ascontiguousarray(frame), (side_px, side_px), interpolation=how) for frame in frames
    ]
    return np.concatenate(resized, axis=2, dtype=np.uint8)
