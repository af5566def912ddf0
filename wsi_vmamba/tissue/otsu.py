"""Tissue by saturation: Otsu's threshold between sensible bounds, without ink, black borders and specks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import OtsuSettings
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import read_overview

Mask = NDArray[np.bool_]


def segment_otsu(slide: Slide, *, mpp: float, settings: OtsuSettings | None = None) -> TissueMask:
    """Read the slide at low resolution and find its tissue (see `tissue_of`)."""
    overview = read_overview(slide, mpp=mpp)
    mask = tissue_of(overview.pixels, mpp=overview.mpp, settings=settings or OtsuSettings())
    return TissueMask(mask=mask, downsample=overview.downsample, mpp=overview.mpp, picture=overview.pixels)


def tissue_of(pixels: NDArray[np.uint8], *, mpp: float, settings: OtsuSettings) -> Mask:
    """Tissue of an RGB picture.

    Args:
        pixels: uint8 RGB, shape (height, width, 3), light background.
        mpp: micrometres per pixel of the picture.
        settings: thresholds and areas.

    Returns:
        bool, shape (height, width).
    """
    smooth = cv2.medianBlur(pixels, _odd_px(settings.smooth_um, mpp=mpp))
    hue, saturation, value = cv2.split(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))
    ink = _ink(hue, saturation, value, min_area_px=settings.min_ink_um2 / mpp**2)
    threshold = _threshold(saturation[~ink], settings)
    tissue: Mask = (saturation >= threshold) & ~ink
    tissue = _close(tissue, size_px=_odd_px(settings.close_um, mpp=mpp))
    tissue = _drop_small(tissue, min_area_px=settings.min_object_um2 / mpp**2)
    tissue = _fill_holes(tissue, max_area_px=settings.max_hole_um2 / mpp**2)
    # Last, because closing and filling would paint over the strokes again.
    return tissue & ~ink


def _odd_px(length_um: float, *, mpp: float) -> int:
    """The odd number of pixels nearest to a length, at least 1 and at most 31."""
    return min(31, 2 * round((length_um / mpp - 1) / 2) + 1) if length_um > mpp else 1


def _threshold(saturation: NDArray[np.uint8], settings: OtsuSettings) -> float:
    """Otsu's threshold of the saturations, kept between the bounds of the settings."""
    if saturation.size == 0:
        return settings.max_saturation
    otsu, _ = cv2.threshold(saturation.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    upper = saturation > otsu
    flat = upper.all() or not upper.any()
    if flat or saturation[upper].mean() - saturation[~upper].mean() < settings.min_contrast:
        # One class, glass or tissue, or too little tissue to move the threshold out of the noise.
        return settings.max_saturation
    return min(max(float(otsu) + 1, settings.min_saturation), settings.max_saturation)


def _ink(
    hue: NDArray[np.uint8], saturation: NDArray[np.uint8], value: NDArray[np.uint8], *, min_area_px: float
) -> Mask:
    """Pen strokes and black borders: large patches of colours that H&E does not have.

    H&E lies between violet and red (OpenCV hue 125 to 179 and 0 to 10). Hue is degrees / 2.
    """
    chroma = saturation.astype(np.uint16) * value // 255
    black = (value < 70) & (chroma < 28)
    green = (hue >= 35) & (hue < 92) & (chroma >= 40)
    blue = (hue >= 92) & (hue < 118) & (chroma >= 90)
    seeds = np.asarray(black | green | blue)
    large = _drop_small(seeds, min_area_px=min_area_px) | _touching_border(black)
    # The rim of a stroke is mixed with glass and no longer has the colour; take two pixels more.
    return np.asarray(cv2.dilate(large.astype(np.uint8), np.ones((5, 5), np.uint8)), dtype=np.bool_)


def _touching_border(mask: Mask) -> Mask:
    """The pieces of a mask that touch the border of the picture along more than a few pixels."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    counts = np.bincount(rim, minlength=1)
    keep = counts >= 16
    keep = np.concatenate([keep, np.zeros(int(labels.max()) + 1 - keep.size, dtype=np.bool_)])
    keep[0] = False
    touching: Mask = keep[labels]
    return touching


def _close(mask: Mask, *, size_px: int) -> Mask:
    """Bridge gaps narrower than ``size_px``; the border repeats, so that tissue cut by it is not eroded."""
    if size_px < 3:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size_px, size_px))
    padded = np.pad(mask.astype(np.uint8), size_px, mode="edge")
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)
    return np.asarray(closed[size_px:-size_px, size_px:-size_px], dtype=np.bool_)


def _drop_small(mask: Mask, *, min_area_px: float) -> Mask:
    """Remove the 8-connected pieces smaller than an area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def _fill_holes(mask: Mask, *, max_area_px: float) -> Mask:
    """Fill the 4-connected holes up to an area; background open to the border is no hole."""
    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inside = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    fill = inside & (stats[:, cv2.CC_STAT_AREA] <= max_area_px)
    fill[0] = False
    filled: Mask = mask | fill[labels]
    return filled
