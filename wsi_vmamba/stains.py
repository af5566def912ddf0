"""Stain in numbers: optical densities, amounts of haematoxylin and eosin, and what the stain of a slide is like.

Optical density is linear in the amounts of the stains (Ruifrok and Johnston, Quantification of histochemical staining
by color deconvolution, Analytical and Quantitative Cytology and Histology 23:291-299, 2001).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
#: A pixel whose mean density is less is glass, whatever the mask says.
_GLASS = 0.1
#: Fewer pixels of tissue say nothing of a slide.
_FEWEST_PIXELS = 16


def stain_amounts(picture: Picture) -> Floats:
    """Optical density of haematoxylin, eosin and the rest at each pixel of an RGB picture, (height, width, 3)."""
    return np.asarray(DENSITY_OF_LEVEL[picture] @ UNMIX)


def describe_stain(picture: Picture, tissue: NDArray[np.bool_]) -> dict[str, Any]:
    """What the stain of a slide is like, as JSON values; empty where there is too little tissue to say it.

    Args:
        picture: uint8 RGB, (height, width, 3), at low resolution.
        tissue: where tissue is, (height, width); glass in it is left out.

    Returns:
        ``density_mean`` and ``density_sd``, over the pixels, of the optical density in red, green and blue.
    """
    density = DENSITY_OF_LEVEL[picture[tissue]]
    density = density[density.mean(axis=1) >= _GLASS]
    if len(density) < _FEWEST_PIXELS:
        return {}
    return {
        "density_mean": [round(value, 6) for value in density.mean(axis=0).tolist()],
        "density_sd": [round(value, 6) for value in density.std(axis=0).tolist()],
    }


def stain_vector(described: Mapping[str, Any]) -> Floats:
    """The six numbers of `describe_stain`, (6,); NaN where it says nothing.

    Raises:
        ValueError: it is something else.
    """
    if not described:
        return np.full(6, np.nan)
    found = np.array([*described["density_mean"], *described["density_sd"]], dtype=np.float64)
    if found.shape != (6,):
        raise ValueError(f"expected three densities and three deviations, got {dict(described)}")
    return found
