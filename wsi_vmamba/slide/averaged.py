"""A level of a slide averaged down by a whole factor, block by block, in bounded memory; thumbnails."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.slide.workers import run_all

if TYPE_CHECKING:
    from wsi_vmamba.slide.base import Level, Slide

#: Side of the blocks a tiled level is read in, 12 MB each; every thread holds one.
_BLOCK_PX = 2048


def read_averaged(slide: Slide, *, level: int, factor: int) -> NDArray[np.uint8]:
    """Read a whole level, area-averaged by a whole factor along each side.

    It is read in blocks, so memory stays small even where a huge slide has a single level. A ragged edge repeats its
    last pixel.

    Args:
        slide: an open slide.
        level: which of its levels.
        factor: pixels of that level per pixel of the result, along each side.

    Returns:
        RGB, uint8, shape (ceil(height_px / factor), ceil(width_px / factor), 3).

    Raises:
        UnreadableSlideError: a block cannot be read.
    """
    level_info = slide.levels[level]
    step_x, step_y = _block_px(level_info, factor)
    shape = (math.ceil(level_info.height_px / factor), math.ceil(level_info.width_px / factor), 3)
    out = np.empty(shape, dtype=np.uint8)

    def read_block(corner: tuple[int, int]) -> None:
        y, x = corner
        block = slide.read_region(
            x_l0=level_to_l0_px(x, downsample=level_info.downsample),
            y_l0=level_to_l0_px(y, downsample=level_info.downsample),
            level=level,
            width_px=min(step_x, level_info.width_px - x),
            height_px=min(step_y, level_info.height_px - y),
        )
        small = _average(block, factor)
        out[y // factor : y // factor + small.shape[0], x // factor : x // factor + small.shape[1]] = small

    corners = itertools.product(range(0, level_info.height_px, step_y), range(0, level_info.width_px, step_x))
    run_all(read_block, list(corners))
    return out


def read_thumbnail(slide: Slide, max_px: int) -> NDArray[np.uint8]:
    """The whole slide as RGB of at most ``max_px`` a side; see `Slide.thumbnail`."""
    if max_px <= 0:
        raise UsageError(f"a thumbnail needs a positive max_px, got {max_px}")
    finest = slide.levels[0]
    longest = max(finest.width_px, finest.height_px)
    shrink = min(1.0, max_px / longest)
    size = tuple(max(1, round(side * shrink)) for side in (finest.width_px, finest.height_px))
    enough = [
        index
        for index, level in enumerate(slide.levels)
        if level.width_px >= size[0] and level.height_px >= size[1]
    ]
    level = max(enough, key=lambda index: slide.levels[index].downsample)
    level_info = slide.levels[level]
    factor = max(1, min(level_info.width_px // size[0], level_info.height_px // size[1]))
    pixels = read_averaged(slide, level=level, factor=factor)
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    small: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small


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
