"""Transparent pixels over white."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

_FULL = 255


class Opacity(Enum):
    """What the colours beside an opacity are; the value is the number of TIFF's ExtraSamples."""

    PREMULTIPLIED = 1
    STRAIGHT = 2


def lay_over_white(
    out: NDArray[np.uint8], pixels: NDArray[np.uint8], *, opacity: Opacity = Opacity.STRAIGHT
) -> None:
    """Lay pixels (h, w, 4), or grey ones (h, w, 2), whose last sample is opacity, over white into ``out`` (h, w, 3)."""
    alpha = pixels[..., -1]
    out[:] = pixels[..., :-1]
    clear = alpha != _FULL
    if not clear.any():
        return
    weight = alpha[clear, None].astype(np.uint16)
    colour = pixels[clear, :-1].astype(np.uint16)
    if opacity is Opacity.PREMULTIPLIED:
        # A colour brighter than its opacity allows is of a damaged or careless writer; it ends at white.
        composed = np.minimum(colour + (_FULL - weight), _FULL)
    else:
        composed = (colour * weight + _FULL * (_FULL - weight) + _FULL // 2) // _FULL
    out[clear] = composed.astype(np.uint8)
