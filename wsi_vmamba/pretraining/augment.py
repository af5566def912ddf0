"""Changes of H&E pictures that leave the tissue what it is: orientation, stain, light, focus, compression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi_vmamba.pretraining.stain import restain, stain_colours, stain_mix
from wsi_vmamba.pretraining.view_settings import Augmentation

Picture = NDArray[np.uint8]

#: The middle of the grey levels, about which contrast is changed.
_MIDDLE = 127.5
#: Numbers between 0 and 1 that a change takes: 8 for stains, 2 for light, 2 each for blur and JPEG, 1 for grey, 1 for
#: the orientation.
_UNIFORM = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """How one view is changed, as drawn.

    Attributes:
        orientation: which of the eight: 1 exchanges rows and columns, then 2 left and right and 4 top and
            bottom.
        mix: float64 (3, 4), see `restain`; None leaves colours alone.
        light: uint8 (256,), what each grey level becomes; None leaves light alone.
        grey: whether all colours go.
        blur_sigma_px: 0 for none.
        jpeg_quality: 0 for none.
    """

    orientation: int = 0
    mix: NDArray[np.float64] | None = None
    light: NDArray[np.uint8] | None = None
    grey: bool = False
    blur_sigma_px: float = 0.0
    jpeg_quality: int = 0


def draw_changes(rng: np.random.Generator, how: Augmentation, *, count: int) -> list[Change]:
    """Draw how ``count`` views are changed, each on its own; the numbers taken do not depend on what comes out."""
    u = rng.random((count, _UNIFORM))
    mixes = _draw_mixes(u[:, :8], rng.standard_normal((count, 3, 3)), how)
    contrast = 1 + how.contrast * (2 * u[:, 8] - 1)
    factor = contrast * (1 + how.brightness * (2 * u[:, 9] - 1))
    light = light_levels(factor, _MIDDLE * (1 - contrast)) if how.brightness or how.contrast else None
    sigma = _between(how.blur_sigma_px, u[:, 11]) * (u[:, 10] < how.blur_p)
    low, high = how.jpeg_quality
    quality = np.floor(_between((low, high + 1), u[:, 13])) * (u[:, 12] < how.jpeg_p)
    orientation = np.floor(8 * u[:, 15]) * how.turn
    return [
        Change(
            orientation=int(orientation[at]),
            mix=None if mixes is None else mixes[at],
            light=None if light is None else light[at],
            grey=bool(u[at, 14] < how.grey_p),
            blur_sigma_px=float(sigma[at]),
            jpeg_quality=int(quality[at]),
        )
        for at in range(count)
    ]


def _draw_mixes(
    u: NDArray[np.float64], hue: NDArray[np.float64], how: Augmentation
) -> NDArray[np.float64] | None:
    """Stains of some views, (count, 3, 4); None where nothing asks for other stains than there are."""
    if not (how.stain_gain or how.stain_shift or how.stain_hue or how.haematoxylin_p):
        return None
    gains = np.exp(math.log1p(how.stain_gain) * (2 * u[:, :3] - 1))
    gains[u[:, 3] < how.haematoxylin_p, 1:] = 0
    amounts = how.stain_shift * (2 * u[:, 4:7] - 1)
    return stain_mix(gains, amounts, colours=stain_colours(how.stain_hue * hue))


def _between(ends: tuple[float, float], u: NDArray[np.float64]) -> NDArray[np.float64]:
    return ends[0] + (ends[1] - ends[0]) * u


def change(picture: Picture, how: Change) -> Picture:
    """Change a view: as a slide is stained, lit, brought into focus and stored.

    Args:
        picture: uint8 RGB, (side, side, 3); not written to.
        how: as `draw_changes` drew it.

    Returns:
        uint8 RGB of the same shape.
    """
    picture = orient(picture, how.orientation)
    if how.mix is not None:
        picture = restain(picture, how.mix)
    if how.light is not None:
        picture = _array(cv2.LUT(picture, how.light))
    if how.grey:
        picture = _array(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
    if how.blur_sigma_px > 0:
        picture = _array(cv2.GaussianBlur(picture, (0, 0), how.blur_sigma_px))
    if how.jpeg_quality > 0:
        picture = through_jpeg(picture, quality=how.jpeg_quality)
    return picture


def orient(picture: Picture, orientation: int) -> Picture:
    """One of the eight orientations of a square, exactly; see `Change`."""
    if orientation & 1:
        picture = _array(cv2.transpose(picture))
    if orientation & 6:
        both, left_right, top_bottom = -1, 1, 0
        code = {2: left_right, 4: top_bottom, 6: both}[orientation & 6]
        picture = _array(cv2.flip(picture, code))
    return picture


def light_levels(factor: NDArray[np.float64], addend: NDArray[np.float64]) -> NDArray[np.uint8]:
    """What grey levels become that are multiplied and shifted, (..., 256), rounded and kept between 0 and 255."""
    levels = factor[..., None] * np.arange(256) + addend[..., None]
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)


def through_jpeg(picture: Picture, *, quality: int) -> Picture:
    """Encode as JPEG (4:2:0, as most scanners do) and decode again."""
    code = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return _array(simplejpeg.decode_jpeg(code, colorspace="RGB"))


def _array(picture: object) -> Picture:
    """OpenCV's results by their type."""
    return np.asarray(picture, dtype=np.uint8)
