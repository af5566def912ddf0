"""Crops of a field of view, at random places and sizes, each resampled once to the side of its view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of a square field, in shares of its side: left and top edge, width, height."""

    x: float
    y: float
    width: float
    height: float


def draw_crop(rng: np.random.Generator, *, share: tuple[float, float], aspect: tuple[float, float]) -> Crop:
    """Draw a crop of a square field.

    Args:
        rng: where numbers come from; four are taken.
        share: least and greatest share of the field's area, uniform.
        aspect: least and greatest width over height, log-uniform; less where the crop would not fit.
    """
    u = rng.random(4)
    area = share[0] + (share[1] - share[0]) * float(u[0])
    log_low, log_high = math.log(aspect[0]), math.log(aspect[1])
    ratio = math.exp(log_low + (log_high - log_low) * float(u[1]))
    ratio = min(max(ratio, area), 1 / area)  # neither side longer than the field's
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return Crop(x=(1 - width) * float(u[2]), y=(1 - height) * float(u[3]), width=width, height=height)


def cut(picture: Picture, crop: Crop, *, side_px: int) -> Picture:
    """Cut a crop, to whole pixels of the field as it was read, and resample it to a square.

    Shrinking averages areas, enlarging is bicubic.

    Args:
        picture: the field, uint8 RGB, (height, width, 3).
        crop: what of it.
        side_px: side of the view.

    Returns:
        uint8 RGB, (side_px, side_px, 3).
    """
    left, right = _whole(crop.x, crop.width, picture.shape[1])
    top, bottom = _whole(crop.y, crop.height, picture.shape[0])
    part = picture[top:bottom, left:right]
    if part.shape[:2] == (side_px, side_px):
        return part
    shrinks = part.shape[0] >= side_px and part.shape[1] >= side_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (side_px, side_px), interpolation=how), dtype=np.uint8)


def _whole(start: float, length: float, side_px: int) -> tuple[int, int]:
    """First and one past the last pixel along one side; at least one pixel."""
    size = min(max(1, round(length * side_px)), side_px)
    first = min(max(0, round(start * side_px)), side_px - size)
    return first, first + size
