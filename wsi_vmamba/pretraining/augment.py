"""Changes of H&E pictures that leave the tissue what it is: stain, light, focus, compression, orientation.

Stains are told apart by colour deconvolution (Ruifrok and Johnston, Analytical and Quantitative Cytology and Histology
23, 2001): optical density is linear in the amounts of the stains, so that changing amounts and colours of stains is one
3 x 3 matrix on densities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi_vmamba.pretraining.settings_of_views import Augmentation

Picture = NDArray[np.uint8]

#: Optical density of each stain in red, green and blue, as published; rows are haematoxylin, eosin and the third stain
#: (DAB), which here takes up what the first two do not explain.
STAINS_RGB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
#: The same as unit vectors.
STAINS = STAINS_RGB / np.linalg.norm(STAINS_RGB, axis=1, keepdims=True)
#: From densities in RGB to amounts of the stains: ``amounts = densities @ UNMIX``.
UNMIX = np.linalg.inv(STAINS)
#: Density of each grey level, natural logarithm, glass at 255; black is taken for level 1.
DENSITY_OF_LEVEL = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
#: The middle of the grey levels, about which contrast is changed.
_MIDDLE = 127.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """How one view is changed, as drawn.

    Attributes:
        turns: quarter turns anticlockwise, 0 to 3.
        flip: whether left and right change places, after turning.
        mix: float64 (3, 3), densities in RGB become ``densities @ mix + shift``; None leaves colours alone.
        shift: float64 (3,).
        light: (factor, addend) of the grey levels.
        blur_sigma_px: 0 for none.
        jpeg_quality: 0 for none.
        grey: whether all colours go.
    """

    turns: int = 0
    flip: bool = False
    mix: NDArray[np.float64] | None = None
    shift: NDArray[np.float64] | None = None
    light: tuple[float, float] = (1.0, 0.0)
    blur_sigma_px: float = 0.0
    jpeg_quality: int = 0
    grey: bool = False


def draw_change(rng: np.random.Generator, how: Augmentation) -> Change:
    """Draw how a view is changed; takes equally many numbers from ``rng`` whatever comes out."""
    u = rng.random(16)
    orientation = int(8 * u[0]) if how.turn else 0
    span = math.log1p(how.stain_gain)
    gains = np.exp(span * (2 * u[1:4] - 1))
    if u[4] < how.haematoxylin_p:
        gains[1:] = 0
    amounts = how.stain_shift * (2 * u[5:8] - 1)
    hue = rng.standard_normal((3, 3))
    coloured = how.stain_gain or how.stain_shift or how.stain_hue or gains[1] == 0
    mix, shift = stain_mix(gains, amounts, colours=stain_colours(how.stain_hue * hue))
    contrast = 1 + how.contrast * (2 * u[8] - 1)
    brightness = 1 + how.brightness * (2 * u[9] - 1)
    sigma_low, sigma_high = how.blur_sigma_px
    quality_low, quality_high = how.jpeg_quality
    return Change(
        turns=orientation % 4,
        flip=orientation >= 4,
        mix=mix if coloured else None,
        shift=shift if coloured else None,
        light=(contrast * brightness, _MIDDLE * (1 - contrast)),
        blur_sigma_px=sigma_low + (sigma_high - sigma_low) * float(u[11]) if u[10] < how.blur_p else 0.0,
        jpeg_quality=quality_low + int((quality_high - quality_low + 1) * u[13]) if u[12] < how.jpeg_p else 0,
        grey=bool(u[14] < how.grey_p),
    )


def change(picture: Picture, how: Change) -> Picture:
    """Change a view.

    Args:
        picture: uint8 RGB, (side, side, 3); not written to.
        how: as `draw_change` drew it.

    Returns:
        uint8 RGB of the same shape, contiguous.
    """
    picture = orient(picture, turns=how.turns, flip=how.flip)
    if how.mix is not None and how.shift is not None:
        picture = restain(picture, mix=how.mix, shift=how.shift, light=how.light)
    elif how.light != (1.0, 0.0):
        factor, addend = how.light
        levels = np.clip(np.rint(factor * np.arange(256) + addend), 0, 255).astype(np.uint8)
        picture = np.asarray(cv2.LUT(picture, levels), dtype=np.uint8)
    if how.grey:
        picture = np.asarray(
            cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8
        )
    if how.blur_sigma_px > 0:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), how.blur_sigma_px), dtype=np.uint8)
    if how.jpeg_quality > 0:
        picture = through_jpeg(picture, quality=how.jpeg_quality)
    return np.ascontiguousarray(picture)


def orient(picture: Picture, *, turns: int, flip: bool) -> Picture:
    """Turn by quarters, anticlockwise, then exchange left and right; exact."""
    turned = np.rot90(picture, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


def stain_colours(hue: NDArray[np.float64]) -> NDArray[np.float64]:
    """The colours of the stains, (3, 3), with ``hue`` added, as unit vectors again."""
    colours = STAINS + hue
    return np.asarray(colours / np.linalg.norm(colours, axis=1, keepdims=True))


def stain_mix(
    gains: NDArray[np.float64], amounts: NDArray[np.float64], *, colours: NDArray[np.float64] = STAINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrix and the shift of densities in RGB that change each stain.

    Args:
        gains: (3,), factor of each stain's amount.
        amounts: (3,), what is added to it, in optical density.
        colours: (3, 3), unit vectors of the stains that the picture is to be stained with.

    Returns:
        mix (3, 3) and shift (3,), for ``densities @ mix + shift``.
    """
    return UNMIX @ (gains[:, None] * colours), amounts @ colours


def restain(
    picture: Picture,
    *,
    mix: NDArray[np.float64],
    shift: NDArray[np.float64],
    light: tuple[float, float] = (1.0, 0.0),
) -> Picture:
    """Mix the optical densities of a picture, then change its light by (factor, addend of grey levels).

    Args:
        picture: uint8 RGB, (height, width, 3).
        mix: (3, 3); densities become ``densities @ mix + shift``.
        shift: (3,).
        light: factor and addend of the grey levels that come out.
    """
    densities = cv2.LUT(picture, DENSITY_OF_LEVEL)
    # OpenCV multiplies columns: rows of its matrix are the colours that come out.
    negative = -np.concatenate([mix.T, shift[:, None]], axis=1)
    levels = cv2.exp(cv2.transform(densities, negative))
    factor, addend = light
    np.multiply(levels, 255 * factor, out=levels)
    np.add(levels, addend + 0.5, out=levels)
    np.clip(levels, 0, 255, out=levels)
    return np.asarray(levels, dtype=np.uint8)


def stain_amounts(picture: Picture) -> NDArray[np.float64]:
    """Optical density of haematoxylin, eosin and the rest at each pixel, (height, width, 3)."""
    return np.asarray(DENSITY_OF_LEVEL.astype(np.float64)[picture] @ UNMIX)


def through_jpeg(picture: Picture, *, quality: int) -> Picture:
    """Encode as JPEG (4:2:0, as most scanners do) and decode again."""
    code = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return np.asarray(simplejpeg.decode_jpeg(code, colorspace="RGB"))
