"""Damage that cannot be overlooked: red stripes where a slide's data do not decode, never white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.tolerant import TolerantSlide

_STRIPE_PX = 16
_RED, _PALE = (np.array(colour, dtype=np.uint8) for colour in ((200, 0, 0), (255, 205, 205)))


def stripes(*, left_px: int, top_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Red stripes, (height, width, 3), that run on from one rectangle of a level into the next."""
    y, x = np.ogrid[top_px : top_px + height_px, left_px : left_px + width_px]
    is_red = ((x + y) // _STRIPE_PX) % 2 == 0
    return np.where(is_red[..., None], _RED, _PALE)


class PaintedSlide:
    """Reads rectangles of a slide's levels, with stripes where it is damaged."""

    def __init__(self, slide: Slide) -> None:
        """Read through ``slide``, which stays open when this is let go."""
        self._slide = slide
        self._tolerant = TolerantSlide(slide)

    def read(
        self, *, level: int, left_px: int, top_px: int, width_px: int, height_px: int
    ) -> tuple[NDArray[np.uint8], bool]:
        """RGB pixels of a rectangle of a level, all in pixels of the level, and whether some are damaged.

        Raises:
            UnreadableSlideError: the slide went away or was closed.
        """
        downsample = self._slide.levels[level].downsample
        pixels = self._tolerant.read_region(
            x_l0=level_to_l0_px(left_px, downsample=downsample),
            y_l0=level_to_l0_px(top_px, downsample=downsample),
            level=level,
            width_px=width_px,
            height_px=height_px,
        )
        is_damaged = False
        for area in self._tolerant.damage(level):
            x0, x1 = max(area.x_px, left_px), min(area.x_px + area.width_px, left_px + width_px)
            y0, y1 = max(area.y_px, top_px), min(area.y_px + area.height_px, top_px + height_px)
            if x0 < x1 and y0 < y1:
                pixels[y0 - top_px : y1 - top_px, x0 - left_px : x1 - left_px] = stripes(
                    left_px=x0, top_px=y0, width_px=x1 - x0, height_px=y1 - y0
                )
                is_damaged = True
        return pixels, is_damaged
