"""A small picture that shows what will be read: the slide, the outline of the tissue and the regions."""

from __future__ import annotations

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.masks.outline import tissue_polygons
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import read_overview

#: Long side of the picture, at most.
PREVIEW_PX = 1600
_TISSUE_RGB, _REGION_RGB = (0, 160, 80), (30, 90, 220)
_QUALITY = 85


def draw_preview(slide: Slide, tissue: TissueMask, plan: RegionPlan) -> bytes:
    """Return a JPEG of the slide with the tissue outlined in green and the regions in blue.

    Where the segmenter has looked at the slide its picture is used; else the slide is read at low resolution.

    Raises:
        UnreadableSlideError: the slide has to be read and cannot be.
    """
    picture, downsample = tissue.picture, tissue.downsample
    if picture is None:
        base, mpp = slide.levels[0], tissue.mpp / tissue.downsample
        longest = max(base.width_px, base.height_px)
        overview = read_overview(slide, mpp=mpp, overview_mpp=mpp * max(1.0, longest / PREVIEW_PX))
        picture, downsample = overview.pixels, overview.downsample
    shrink = min(1.0, PREVIEW_PX / max(picture.shape))
    size = (max(1, round(picture.shape[1] * shrink)), max(1, round(picture.shape[0] * shrink)))
    canvas = np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    scale = size[0] / (picture.shape[1] * downsample)
    rings = [
        shapely.get_coordinates(ring)
        for polygon in tissue_polygons(tissue)
        for ring in shapely.get_rings(polygon)
    ]
    _draw(canvas, rings, scale=scale, colour=_TISSUE_RGB)
    _draw(
        canvas, [_corners(plan, index) for index in range(len(plan.regions))], scale=scale, colour=_REGION_RGB
    )
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return jpeg.tobytes()


def _corners(plan: RegionPlan, index: int) -> NDArray[np.float64]:
    """Corners of a region in level-0 pixels."""
    region = plan.regions[index]
    left, top = region.x_px, region.y_px
    right, bottom = left + region.width_px, top + region.height_px
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)
    return corners * plan.l0_per_px


def _draw(
    canvas: NDArray[np.uint8],
    rings_l0: list[NDArray[np.float64]],
    *,
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw closed lines, 2 px wide, given in level-0 pixels."""
    rings = [np.rint(ring * scale).astype(np.int32) for ring in rings_l0]
    cv2.polylines(canvas, rings, isClosed=True, color=colour, thickness=2, lineType=cv2.LINE_AA)
