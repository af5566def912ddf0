"""Oriented gratings in the colours of stained tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: RGB between which a grating goes: nuclei in haematoxylin, and eosin between them.
DARK, LIGHT = (104.0, 74.0, 147.0), (232.0, 190.0, 214.0)


def grating(*, side_px: int, wavelength_px: float, angle_deg: float, phase: float) -> NDArray[np.uint8]:
    """A sinusoid, (side, side, 3) uint8 RGB.

    Args:
        side_px: of the square.
        wavelength_px: from crest to crest.
        angle_deg: of the stripes against the rows, counted from right to up: 0 are horizontal stripes, 90 upright ones.
        phase: shift in wavelengths, 0 to 1; 0 has a crest in the middle of the square.
    """
    # From the middle, so that turning the square by quarters turns the stripes and changes nothing else.
    place = np.arange(side_px) - (side_px - 1) / 2
    turn = np.deg2rad(angle_deg)
    # Rows count downwards. Across the stripes, which run along (cos, -sin) in (x, y of the picture).
    across = np.sin(turn) * place[None, :] + np.cos(turn) * place[:, None]
    share = 0.5 + 0.5 * np.cos(2 * np.pi * (across / wavelength_px - phase))
    colours = np.array(DARK) + share[..., None] * (np.array(LIGHT) - np.array(DARK))
    return np.asarray(np.rint(colours), dtype=np.uint8)
