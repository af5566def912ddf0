"""Transparent pixels over white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FULL = 255


def lay_over_white(out: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> None:
    """Compose straight-alpha RGBA (h, w, 4) over white into ``out`` (h, w, 3)."""
    alpha = rgba[..., 3]
    out[:] = rgba[..., :3]
    clear = alpha != _FULL
    if clear.any():
        weight = alpha[clear, None].astype(np.uint16)
        colour = rgba[clear, :3].astype(np.uint16)
        out[clear] = ((colour * weight + _FULL * (_FULL - weight) + _FULL // 2) // _FULL).astype(np.uint8)
