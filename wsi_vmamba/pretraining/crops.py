"""Crops of a field of view, at random places and sizes, each resampled once to the side of its view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.pretraining.resample import resample

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of a square field, in shares of its side: left and top edge, width, height."""

    x: float
    y: float
    width: float
    height: float


def draw_crops(
    rng: np.random.Generator, *, count: int, share: tuple[float, float], aspect: tuple[float, float]
) -> list[Crop]:
    """Draw crops of a square field.

    Args:
        rng: where numbers come from.
        count: how many.
        share: least and greatest share of the field's area, uniform.
        aspect: least and greatest width over height, log-uniform; less where the crop would not fit.
    """
    u = rng.random((count, 4))
    area = share[0] + (share[1] - share[0]) * u[:, 0]
    log_low, log_high = math.log(aspect[0]), math.log(aspect[1])
    ratio = np.exp(log_low + (log_high - log_low) * u[:, 1])
    ratio = np.clip(ratio, area, 1 / area)  # neither side longer than the field's
    width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    boxes = np.stack([(1 - width) * u[:, 2], (1 - height) * u[:, 3], width, height], axis=1)
    return [Crop(x=x, y=y, width=w, height=h) for x, y, w, h in boxes.tolist()]


def cut(picture: Picture, crop: Crop, *, side_px: int) -> Picture:
    """Cut a crop, to whole pixels of the field as it was read, and resample it to a square.

    Args:
        picture: the field, uint8 RGB, (height, width, 3).
        crop: what of it.
        side_px: side of the view.

    Returns:
        uint8 RGB, (side_px, side_px, 3), no part of ``picture``.
    """
    left, right = _whole(crop.x, crop.width, picture.shape[1])
    top, bottom = _whole(crop.y, crop.height, picture.shape[0])
    return resample(picture[top:bottom, left:right], side_px=side_px)


def _whole(start: float, length: float, side_px: int) -> tuple[int, int]:
    """First and one past the last pixel along one side; at least one pixel."""
    size = min(max(1, round(length * side_px)), side_px)
    first = min(max(0, round(start * side_px)), side_px - size)
    return first, first + size
