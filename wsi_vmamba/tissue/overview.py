"""A small picture of the whole slide, area-averaged from the best level, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.averaged import read_averaged
from wsi_vmamba.slide.base import Level, Slide

#: Resolution of the tissue mask: coarse enough for memory, fine enough for a 100-um fragment.
OVERVIEW_MPP = 8.0


@dataclass(frozen=True, kw_only=True)
class OverviewGrid:
    """Where the pixels of an overview lie, known before any is read.

    Attributes:
        level: level of the slide that is read.
        factor: pixels of that level averaged along each side.
        width_px: width of the picture.
        height_px: height of the picture.
        downsample: level-0 pixels per pixel of the picture.
    """

    level: int
    factor: int
    width_px: int
    height_px: int
    downsample: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Overview:
    """The slide at low resolution.

    Attributes:
        pixels: uint8 RGB, shape (height, width, 3).
        downsample: level-0 pixels per pixel of the picture.
        mpp: micrometres per pixel of the picture.
    """

    pixels: NDArray[np.uint8]
    downsample: float
    mpp: float


def read_overview(slide: Slide, *, mpp: float, overview_mpp: float = OVERVIEW_MPP) -> Overview:
    """Read the whole slide at about ``overview_mpp`` micrometres per pixel, never coarser.

    The coarsest level that is fine enough is read in blocks and each block is averaged by a whole factor, so
    memory stays small even where a huge slide has a single level. A ragged edge repeats its last pixel.

    Args:
        slide: an open slide.
        mpp: micrometres per level-0 pixel.
        overview_mpp: resolution wanted; a slide coarser than that is read as it is.

    Raises:
        UnreadableSlideError: a block cannot be read.
    """
    grid = overview_grid(slide, mpp=mpp, overview_mpp=overview_mpp)
    pixels = read_averaged(slide, level=grid.level, factor=grid.factor)
    return Overview(pixels=pixels, downsample=grid.downsample, mpp=mpp * grid.downsample)


def overview_grid(slide: Slide, *, mpp: float, overview_mpp: float = OVERVIEW_MPP) -> OverviewGrid:
    """Return the grid that `read_overview` fills; masks drawn on it fit those of the segmenters exactly."""
    index = _best_level(slide.levels, downsample=overview_mpp / mpp)
    level = slide.levels[index]
    # A hair of tolerance: 7.9999 um per pixel is meant to be 8, not to be averaged no further.
    factor = max(1, math.floor(overview_mpp / (mpp * level.downsample) + 1e-3))
    return OverviewGrid(
        level=index,
        factor=factor,
        width_px=math.ceil(level.width_px / factor),
        height_px=math.ceil(level.height_px / factor),
        downsample=level.downsample * factor,
    )


def _best_level(levels: tuple[Level, ...], *, downsample: float) -> int:
    """Index of the coarsest level that is at least as fine as ``downsample``; 0 where none is."""
    fine_enough = [i for i, level in enumerate(levels) if level.downsample <= downsample * 1.001]
    return max(fine_enough, key=lambda i: levels[i].downsample, default=0)
