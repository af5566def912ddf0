"""Places on a slide: pixels of level 0 <-> pixels of a level. Pure arithmetic, one axis at a time."""

from __future__ import annotations

import math

#: Resolutions outside this range are not microscopy of tissue sections; they are writer's defaults or unit errors.
MPP_RANGE = (0.05, 4.0)
#: How far mpp in x and y may differ before pixels count as not square.
ISOTROPY = 0.015


def level_to_l0_px(position_px: int, *, downsample: float) -> int:
    """Level-0 pixel at which to ask `Slide.read_region` for a pixel of a level."""
    return round(position_px * downsample)


def l0_to_level_px(position_l0: int, *, downsample: float) -> int:
    """Pixel of a level under the centre of a level-0 pixel.

    The hair added keeps it the inverse of `level_to_l0_px` in floating point.
    """
    return math.floor((position_l0 + 0.5) / downsample + 1e-6) if downsample != 1.0 else position_l0


def grid_rectangle_l0(
    *, column: int, row: int, columns: int, rows: int, patch_l0: float
) -> tuple[float, float, float, float]:
    """Left, top, width and height in level-0 pixels of some patches of a slide's grid, which begins at (0, 0).

    Computed from the place on the grid and not from rounded corners, so that it is right at both ends.

    Args:
        column: of the first patch.
        row: of the first patch.
        columns: patches side by side.
        rows: patches on top of each other.
        patch_l0: side of a patch; need not be whole.
    """
    return column * patch_l0, row * patch_l0, columns * patch_l0, rows * patch_l0
