"""A small picture of the whole slide, area-averaged from the best level, in bounded memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.base import Level, Slide
from wsi_vmamba.slide.workers import run_all

#: Resolution of the tissue mask: coarse enough for memory, fine enough for a 100-um fragment.
OVERVIEW_MPP = 8.0
#: Side of the blocks a tiled level is read in, 12 MB each; every thread holds one.
_BLOCK_PX = 2048


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
    index, factor, level = grid.level, grid.factor, slide.levels[grid.level]
    step_x, step_y = _block_px(level, factor)
    out = np.empty((grid.height_px, grid.width_px, 3), dtype=np.uint8)

    def read_block(corner: tuple[int, int]) -> None:
        y, x = corner
        width, height = min(step_x, level.width_px - x), min(step_y, level.height_px - y)
        block = slide.read_region(
            x_l0=round(x * level.downsample),
            y_l0=round(y * level.downsample),
            level=index,
            width_px=width,
            height_px=height,
        )
        small = _average(block, factor)
        out[y // factor : y // factor + small.shape[0], x // factor : x // factor + small.shape[1]] = small

    corners = itertools.product(range(0, level.height_px, step_y), range(0, level.width_px, step_x))
    run_all(read_block, list(corners))
    return Overview(pixels=out, downsample=grid.downsample, mpp=mpp * grid.downsample)


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


def _block_px(level: Level, factor: int) -> tuple[int, int]:
    """(width, height) of the blocks to read: multiples of the factor, of about _BLOCK_PX squared pixels.

    Square where the level is tiled; as wide as the level where it is stored in strips, each of which would otherwise
    be decoded once for every block beside it. Whole strips where that does not make the blocks much larger.
    """
    if level.stored_px is None or level.stored_px[0] <= _BLOCK_PX:
        side = max(1, _BLOCK_PX // factor) * factor
        return side, side
    width = math.ceil(level.width_px / factor) * factor
    rows = max(1, _BLOCK_PX**2 // width // factor) * factor
    whole = math.lcm(factor, level.stored_px[1])
    return width, max(rows // whole, 1) * whole if whole <= 2 * rows else rows


def _best_level(levels: tuple[Level, ...], *, downsample: float) -> int:
    """Index of the coarsest level that is at least as fine as ``downsample``; 0 where none is."""
    fine_enough = [i for i, level in enumerate(levels) if level.downsample <= downsample * 1.001]
    return max(fine_enough, key=lambda i: levels[i].downsample, default=0)


def _average(block: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Area-average by a whole factor; a ragged right or bottom edge is filled up with its last pixel."""
    if factor == 1:
        return block
    height, width = block.shape[:2]
    bottom, right = -height % factor, -width % factor
    if bottom or right:
        block = cv2.copyMakeBorder(block, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    size = (block.shape[1] // factor, block.shape[0] // factor)
    small: NDArray[np.uint8] = cv2.resize(block, size, interpolation=cv2.INTER_AREA)
    return small
