"""Pictures stained otherwise: changing amounts and colours of stains is one 3 x 3 matrix on optical densities."""

from __future__ import annotations

import math

import cv2
import numpy as np

from wsi_vmamba.stains import DENSITY_OF_LEVEL, STAINS, UNMIX, Floats, Picture

_DENSITY_FLOAT32 = DENSITY_OF_LEVEL.astype(np.float32)


def stain_colours(hue: Floats) -> Floats:
    """The colours of the stains with ``hue`` (..., 3, 3) added, as unit vectors again."""
    colours = STAINS + hue
    return np.asarray(colours / np.linalg.norm(colours, axis=-1, keepdims=True))


def stain_mix(gains: Floats, amounts: Floats, *, colours: Floats = STAINS) -> Floats:
    """What `restain` needs to change each stain.

    Args:
        gains: (..., 3), factor of each stain's amount.
        amounts: (..., 3), what is added to it, in optical density.
        colours: (..., 3, 3), unit vectors of the stains that the picture is to be stained with.

    Returns:
        (..., 3, 4): for each colour that comes out, the factors of the densities that go in, and what is added.
    """
    mix = np.swapaxes(UNMIX @ (gains[..., None] * colours), -1, -2)
    shift = np.swapaxes(amounts[..., None, :] @ colours, -1, -2)
    return np.concatenate([mix, shift], axis=-1)


def restain(picture: Picture, mix: Floats) -> Picture:
    """Mix the optical densities of a picture.

    Args:
        picture: uint8 RGB, (height, width, 3).
        mix: (3, 4), as of `stain_mix`.
    """
    to_log_level = -mix
    to_log_level[:, 3] += math.log(255)
    densities = cv2.LUT(picture, _DENSITY_FLOAT32)
    levels = cv2.exp(cv2.transform(densities, to_log_level))
    # Levels are positive; this rounds them, and what is lighter than glass becomes glass.
    return np.asarray(cv2.convertScaleAbs(levels), dtype=np.uint8)
