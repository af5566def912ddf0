"""What the stain of a slide is like, from the picture in which its tissue was found: no more of it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import SlideError
from wsi_vmamba.slide import Slide
from wsi_vmamba.stains import describe_stain
from wsi_vmamba.tissue import TissueMask
from wsi_vmamba.tissue.overview import overview_grid, read_overview

#: Where no segmenter has looked at a slide, it is looked at for this alone only if it has so small a level, in pixels.
_SMALL_LEVEL = 1 << 26


def stain_of(slide: Slide, tissue: TissueMask, *, mpp: float) -> dict[str, Any]:
    """Describe the stain of a slide, see `describe_stain`; empty where that would cost reading it all, or cannot be.

    Args:
        slide: an open slide.
        tissue: where its tissue is.
        mpp: micrometres per level-0 pixel.
    """
    if tissue.picture is not None:
        return describe_stain(tissue.picture, tissue.mask)
    level = slide.levels[overview_grid(slide, mpp=mpp).level]
    if level.width_px * level.height_px > _SMALL_LEVEL:
        return {}
    try:
        overview = read_overview(slide, mpp=mpp)
    except SlideError:  # its patches may be sound all the same; what is unsound of them, reading them says
        return {}
    places = [
        _places(side, overview.downsample, tissue, axis)
        for axis, side in enumerate(overview.pixels.shape[:2])
    ]
    return describe_stain(overview.pixels, tissue.mask[np.ix_(*places)])


def _places(side_px: int, downsample: float, tissue: TissueMask, axis: int) -> NDArray[np.int64]:
    """Row or column of a mask in which the middle of each row or column of a picture lies."""
    middle_l0 = (np.arange(side_px) + 0.5) * downsample
    places = (middle_l0 / tissue.downsample).astype(np.int64)
    found: NDArray[np.int64] = np.minimum(places, tissue.mask.shape[axis] - 1)
    return found
