"""Pixels made smaller: by JPEG, which decodes small at a fraction of the cost, or by averages."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray


def decoded_small(data: bytes, shrink: int) -> NDArray[np.uint8] | None:
    """A JPEG file as RGB at a half, a quarter or an eighth of its size; None where its data are damaged."""
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    try:
        small: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=height // shrink, min_width=width // shrink
        )
    except ValueError:
        return None
    return small if small.shape[:2] == (height // shrink, width // shrink) else None


def padded_and_shrunk(pixels: NDArray[np.uint8], shrink: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Averaged in squares of ``shrink`` to (width, height); an edge that is cut repeats its last pixel."""
    bottom, right = shrink * size_px[1] - pixels.shape[0], shrink * size_px[0] - pixels.shape[1]
    if bottom or right:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return shrunk(pixels, size_px)


def shrunk(pixels: NDArray[np.uint8], size_px: tuple[int, ...]) -> NDArray[np.uint8]:
    """Area-averaged to (width, height)."""
    if (pixels.shape[1], pixels.shape[0]) == size_px:
        return pixels
    small: NDArray[np.uint8] = cv2.resize(pixels, size_px, interpolation=cv2.INTER_AREA)
    return small
