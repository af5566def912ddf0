"""H&E in terms of its stains: colour deconvolution, and pictures stained otherwise.

Optical density is linear in the amounts of the stains (Ruifrok and Johnston, Quantification of histochemical staining
by color deconvolution, Analytical and Quantitative Cytology and Histology 23:291-299, 2001), so that changing amounts
and colours of stains is one 3 x 3 matrix on densities.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]

#: Optical density of each stain in red, green and blue, as published; rows are haematoxylin, eosin and the third stain
#: (DAB), which here takes up what the first two do not explain.
STAINS_RGB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
#: The same as unit vectors.
STAINS = STAINS_RGB / np.linalg.norm(STAINS_RGB, axis=1, keepdims=True)
#: From densities in RGB to amounts of the stains: ``amounts = densities @ UNMIX``.
UNMIX = np.linalg.inv(STAINS)
#: Density of each grey level, natural logarithm, glass at 255; black is taken for level 1.
DENSITY_OF_LEVEL = -np.log(np.maximum(np.arange(256), 1) / 255)
_DENSITY_FLOAT32 = DENSITY_OF_LEVEL.astype(np.float32)


def stain_amounts(picture: Picture) -> Floats:
    """Optical density of haematoxylin, eosin and the rest at each pixel of an RGB picture, (height, width, 3)."""
    return np.asarray(DENSITY_OF_LEVEL[picture] @ UNMIX)


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
