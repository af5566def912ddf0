"""From a level-5 tumour mask to the lesions the CAMELYON16 FROC counts (rules 1 to 7 of the organisers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsi_vmamba.errors import MetricError, PictureError
from wsi_vmamba.masks.picture_files import read_picture

#: Fixed by the challenge, whatever the slide records: um per level-0 pixel and the level of the masks.
MPP_L0 = 0.243
MASK_LEVEL = 5
MASK_DOWNSAMPLE = 2**MASK_LEVEL
MASK_MPP = MPP_L0 * MASK_DOWNSAMPLE
#: Outlines closer than this are one lesion: each grows by half of it.
MERGE_DISTANCE_UM = 75.0
#: Lesions with a shorter major axis are isolated tumour cells: 200 um of outline plus what it grew.
ITC_MAJOR_AXIS_UM = 275.0
TUMOR_VALUE = 255

_GROW_PX = MERGE_DISTANCE_UM / (2 * MASK_MPP)
_ITC_PX = ITC_MAJOR_AXIS_UM / MASK_MPP
_MARGIN_PX = math.ceil(_GROW_PX) + 1


@dataclass(frozen=True, kw_only=True)
class LesionMap:
    """The lesions of one slide at level 5.

    ``labels`` (H, W) int32 is 0 outside and 1..n inside; lesion k has ``areas_px[k - 1]`` level-5 pixels, a
    major axis of ``major_axis_px[k - 1]`` and counts unless ``is_itc[k - 1]``.
    """

    labels: NDArray[np.int32]
    areas_px: tuple[int, ...]
    major_axis_px: tuple[float, ...]
    is_itc: tuple[bool, ...]

    @property
    def n_lesions(self) -> int:
        """Lesions after merging, isolated tumour cells included."""
        return len(self.areas_px)

    @property
    def counted(self) -> tuple[int, ...]:
        """Labels of the lesions that count: all but isolated tumour cells."""
        return tuple(label for label, itc in enumerate(self.is_itc, start=1) if not itc)


def find_lesions(mask: NDArray[np.uint8], *, name: str) -> LesionMap:
    """Merge, fill, number and measure the lesions of a level-5 mask.

    Args:
        mask: shape (H, W) uint8; pixels equal to 255 are tumour, all others are not.
        name: the slide, for messages.

    Raises:
        MetricError: the mask is not (H, W) uint8 or has no tumour pixel.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise MetricError(
            f"{name}: expected an 8-bit grey mask (H, W), got {mask.dtype} of shape {mask.shape}"
        )
    tumor = mask == TUMOR_VALUE
    rows, columns = np.flatnonzero(tumor.any(axis=1)), np.flatnonzero(tumor.any(axis=0))
    if not len(rows):
        raise MetricError(
            f"{name}: no mask pixel is {TUMOR_VALUE} (values present: {_listed_values(mask)}); tumour must "
            f"be written as {TUMOR_VALUE}, and a slide without tumour has no mask file"
        )
    # All that happens lies within the grown outlines, and what is outside of them is open background.
    window = tuple(
        slice(max(0, int(i[0]) - _MARGIN_PX), int(i[-1]) + _MARGIN_PX + 1) for i in (rows, columns)
    )
    grown = cv2.dilate(tumor[window].astype(np.uint8), _grow_kernel()) > 0
    labels = np.zeros(mask.shape, dtype=np.int32)
    labels[window] = _number_row_by_row(_fill_holes(grown))
    areas_px, axes_px = _measure(labels[window])
    return LesionMap(
        labels=labels,
        areas_px=areas_px,
        major_axis_px=axes_px,
        is_itc=tuple(axis < _ITC_PX for axis in axes_px),
    )


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a level-5 mask, shape (H, W) uint8, black being 0, from a grey PNG or TIFF.

    Of a TIFF pyramid (such as the organisers' own mask files, whose first level is that of the slide) the
    level with a downsample of 32 is read.

    Raises:
        MetricError: the file is not an 8-bit grey image, does not say clearly what is black, or is a pyramid without
            such a level.
    """
    try:
        picture = read_picture(path, choose=_mask_level)
    except PictureError as error:
        raise MetricError(f"{path}: {error}") from error
    grey = picture.grey
    if grey is None or grey.dtype not in (np.uint8, np.bool_):
        found = "colours" if grey is None else str(grey.dtype)
        raise MetricError(
            f"{path}: expected an 8-bit grey image, got {found} of shape {picture.marked.shape}"
        )
    # One-bit images say tumour with True.
    return np.where(grey, np.uint8(TUMOR_VALUE), np.uint8(0)) if grey.dtype == np.bool_ else grey


def _mask_level(sizes: Sequence[tuple[int, int]]) -> tuple[int, tuple[str, ...]]:
    """The only image of a plain file; of a pyramid, the one 32 times smaller than its first."""
    if len(sizes) == 1:
        return 0, ()
    for index, (width, _) in enumerate(sizes):
        if round(sizes[0][0] / width) == MASK_DOWNSAMPLE:
            return index, ()
    raise PictureError(f"{len(sizes)} images, none {MASK_DOWNSAMPLE} times smaller than the first")


def _grow_kernel() -> NDArray[np.uint8]:
    """The pixels closer than the growth to the middle one.

    Distances between pixel centres are roots of whole numbers, so taking every pixel under this disc is the same
    as comparing each pixel's exact distance to the nearest tumour pixel, and far cheaper on a whole slide.
    """
    reach = np.arange(-_MARGIN_PX, _MARGIN_PX + 1)
    disc: NDArray[np.uint8] = (np.hypot(reach[:, None], reach[None, :]) < _GROW_PX).astype(np.uint8)
    return disc


def _fill_holes(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the background that 4-connected steps cannot leave; the edge of the window is open."""
    _, background = cv2.connectedComponents((~region).astype(np.uint8), connectivity=4)
    edge = np.concatenate([background[0], background[-1], background[:, 0], background[:, -1]])
    open_background = np.isin(background, np.unique(edge[edge > 0]))
    filled: NDArray[np.bool_] = ~open_background
    return filled


def _number_row_by_row(region: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label 8-connected regions by their first pixel in row-by-row order."""
    count, found = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    n = count - 1
    inside = np.flatnonzero(found)
    first = np.zeros(n + 1, dtype=np.int64)
    # Of repeated targets the last assignment holds, so running backwards leaves the first pixel.
    first[found.ravel()[inside][::-1]] = inside[::-1]
    renumber = np.zeros(n + 1, dtype=np.int32)
    renumber[1 + np.argsort(first[1:])] = np.arange(1, n + 1)
    ordered: NDArray[np.int32] = renumber[found]
    return ordered


def _measure(labels: NDArray[np.int32]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Area and major axis, both in pixels, of the labels 1..n."""
    areas: list[int] = []
    axes: list[float] = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        points = np.argwhere(labels[box] == label).astype(np.float64)
        areas.append(len(points))
        centred = points - points.mean(axis=0)
        covariance = centred.T @ centred / len(points)
        axes.append(4 * math.sqrt(max(0.0, float(np.linalg.eigvalsh(covariance)[-1]))))
    return tuple(areas), tuple(axes)


def _listed_values(mask: NDArray[np.uint8]) -> str:
    values = np.unique(mask)
    return ", ".join(map(str, values[:6].tolist())) + (", …" if len(values) > 6 else "")
