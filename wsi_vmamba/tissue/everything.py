"""The segmenter that calls everything tissue: for crops, stains it was not made for, and comparisons."""

from __future__ import annotations

import math

import numpy as np

from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import OVERVIEW_MPP


def segment_everything(slide: Slide, *, mpp: float) -> TissueMask:
    """Return a mask that is True everywhere, at about the resolution the other segmenters use."""
    downsample = max(1, round(OVERVIEW_MPP / mpp))
    base = slide.levels[0]
    shape = (math.ceil(base.height_px / downsample), math.ceil(base.width_px / downsample))
    return TissueMask(mask=np.ones(shape, dtype=np.bool_), downsample=float(downsample), mpp=mpp * downsample)
