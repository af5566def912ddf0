"""Stain: two concentrations per pixel -> RGB by Beer–Lambert, one table per slide."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.noise import FloatArray
from wsi_vmamba.datasets.synthetic.spec import CENTRES

#: Above this eosin value the pixel turns to the red of erythrocytes.
RED_FROM = 205

#: Optical density of (haematoxylin, eosin, erythrocytes) in R, G, B at full concentration, by centre.
_DENSITIES = {
    CENTRES[0]: ((1.55, 1.95, 0.92), (0.28, 1.05, 0.55), (0.40, 1.70, 1.25)),
    CENTRES[1]: ((1.38, 1.98, 0.74), (0.20, 1.20, 0.72), (0.35, 1.80, 1.40)),
}
#: Colour of bare glass under the lamp, by centre.
_GLASS = {CENTRES[0]: (243.0, 243.0, 244.0), CENTRES[1]: (240.0, 236.0, 240.0)}


@dataclass(frozen=True, kw_only=True)
class StainLut:
    """Colours of one slide.

    ``table`` holds a packed RGBA pixel for each ``haematoxylin + 256 * eosin``; both run 0–255, which is what
    a two-channel byte image viewed as little-endian uint16 gives.
    """

    table: NDArray[np.uint32]

    def to_rgb(self, stains: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Colour a (H, W, 2) stain image; returns (H, W, 3)."""
        index = np.ascontiguousarray(stains).view("<u2")[..., 0]
        rgba = np.take(self.table, index)
        return np.asarray(cv2.cvtColor(rgba.view(np.uint8).reshape(*index.shape, 4), cv2.COLOR_RGBA2RGB))

    def mean_rgb(self, stains: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mean colour of a stain image, shape (3,)."""
        return np.asarray(self.to_rgb(stains).reshape(-1, 3).mean(axis=0), dtype=np.float64)


def make_stain(rng: np.random.Generator, centre: str, *, jitter: float = 1.0) -> StainLut:
    """Draw the stain of one slide of a centre; ``jitter`` scales how far slides of a centre differ."""
    densities = np.array(_DENSITIES[centre])
    densities = densities * np.exp(jitter * 0.06 * rng.standard_normal(densities.shape))
    densities = densities * np.exp(jitter * 0.12 * rng.standard_normal((3, 1)))
    glass = np.clip(np.array(_GLASS[centre]) + jitter * rng.normal(0, 2.0, 3), 220, 252)
    level = np.arange(256) / 255.0
    eosin = np.minimum(level, RED_FROM / 255.0) * 1.6
    red = np.clip((np.arange(256) - RED_FROM) / (255.0 - RED_FROM), 0, 1)
    eosin = eosin * (1 - red)
    density = (
        level[None, :, None] * densities[0]
        + eosin[:, None, None] * densities[1]
        + red[:, None, None] * densities[2]
    )
    rgba = np.full((256, 256, 4), 255, dtype=np.uint8)
    rgba[..., :3] = np.round(glass * np.exp(-density))
    return StainLut(table=rgba.reshape(-1, 4).view("<u4")[:, 0].astype(np.uint32))


def match_colour(tile: FloatArray, lut: StainLut, *, target_rgb: NDArray[np.float64]) -> FloatArray:
    """Adjust both stains of a texture, and their contrast, until its mean colour is ``target_rgb``.

    A tumour texture treated this way cannot be told from what it replaces by mean colour.
    """
    sample = tile[::5, ::5]
    knobs = np.zeros(3)
    for _ in range(8):
        here = _mean_rgb(sample, lut, knobs)
        slope = np.stack(
            [(_mean_rgb(sample, lut, knobs + nudge) - here) / 0.05 for nudge in 0.05 * np.eye(3)]
        )
        # Damped, for contrast moves the colour little and must not run away.
        step = np.linalg.solve(slope @ slope.T + 4.0 * np.eye(3), slope @ (target_rgb - here))
        knobs = np.clip(knobs + np.clip(step, -0.4, 0.4), [-1.0, -1.5, -0.5], [1.0, 1.0, 0.6])
    return _adjust(tile, knobs)


def _mean_rgb(tile: FloatArray, lut: StainLut, knobs: NDArray[np.float64]) -> NDArray[np.float64]:
    return lut.mean_rgb(as_bytes(_adjust(tile, knobs)))


def _adjust(tile: FloatArray, knobs: NDArray[np.float64]) -> FloatArray:
    """Apply (log gain of haematoxylin, log gain of eosin, log contrast of both)."""
    gains, contrast = np.exp(knobs[:2]).astype(np.float32), np.float32(np.exp(knobs[2]))
    mean = tile.mean(axis=(0, 1))
    adjusted = gains * np.maximum(mean + contrast * (tile - mean), 0)
    adjusted[..., 1] = np.minimum(adjusted[..., 1], RED_FROM)
    return np.asarray(adjusted, dtype=np.float32)


def as_bytes(tile: FloatArray) -> NDArray[np.uint8]:
    """Round and clip a stain texture to bytes."""
    return np.asarray(np.clip(tile + 0.5, 0, 255), dtype=np.uint8)
