"""A baseline without a network: colours, stains and textures of a tile as numbers that anybody could have counted."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.stains import stain_amounts

#: Eight neighbours of a pixel, once around it: (down, right).
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
#: Halvings of the tile at which textures are looked at.
_SCALES = 3
_ORIENTATIONS = 8
_PERCENTILES = (5, 25, 50, 75, 95)


def _uniform_patterns() -> NDArray[np.int64]:
    """Pattern of 8 bits -> number of ones where it has at most two changes around the ring, else 9."""
    codes = np.arange(256)
    bits = codes[:, None] >> np.arange(8) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), 9)


_UNIFORM = _uniform_patterns()


def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe tiles (B, H, W, 3) by 102 numbers each, whatever their size.

    Mean, deviation and five percentiles of red, green, blue and of the amounts of three stains (42); of the amount of
    haematoxylin at three scales a histogram of rotation-invariant uniform local binary patterns (10), and gradient
    strength by orientation (8) with its mean and deviation.
    """
    return np.stack([_describe(tile) for tile in tiles])


def _describe(tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    stains = stain_amounts(tile).astype(np.float32)
    parts = [_statistics(tile.astype(np.float32) / 255), _statistics(stains)]
    grey = np.ascontiguousarray(stains[..., 0])
    for _ in range(_SCALES):
        parts += [_binary_patterns(grey), _gradients(grey)]
        grey = (
            cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            if min(grey.shape) > 7
            else grey
        )
    return np.concatenate(parts).astype(np.float32)


def _statistics(image: NDArray[np.floating]) -> NDArray[np.floating]:
    flat = image.reshape(-1, image.shape[-1])
    return np.concatenate([flat.mean(axis=0), flat.std(axis=0), *np.percentile(flat, _PERCENTILES, axis=0)])


def _binary_patterns(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares (10,) of the uniform patterns by their number of ones, and of all others."""
    centre = grey[1:-1, 1:-1]
    height, width = grey.shape
    code = np.zeros(centre.shape, dtype=np.int64)
    for bit, (down, right) in enumerate(_RING):
        neighbour = grey[1 + down : height - 1 + down, 1 + right : width - 1 + right]
        code |= (neighbour >= centre).astype(np.int64) << bit
    counts = np.bincount(_UNIFORM[code].ravel(), minlength=10)
    shares: NDArray[np.float32] = (counts / max(counts.sum(), 1)).astype(np.float32)
    return shares


def _gradients(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient strength by orientation, sorted so that a turned tile has the same (8,), its mean and deviation."""
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    turn = (
        np.floor((np.arctan2(down, right) % np.pi) / np.pi * _ORIENTATIONS).astype(np.int64) % _ORIENTATIONS
    )
    sums = np.bincount(turn.ravel(), weights=strength.ravel(), minlength=_ORIENTATIONS)
    shares = np.sort(sums / max(float(sums.sum()), 1e-12))[::-1]
    return np.array([*shares, strength.mean(), strength.std()], dtype=np.float32)
