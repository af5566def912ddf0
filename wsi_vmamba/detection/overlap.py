"""How much boxes and masks overlap: the measure by which a found object is one of the known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.detection.objects import Boxes, Cut, Objects

Overlaps = NDArray[np.float64]


def box_overlaps(found: Boxes, known: Boxes, *, crowd: NDArray[np.bool_] | None = None) -> Overlaps:
    """Intersection over union of boxes, (n_found, n_known).

    Args:
        found: (n_found, 4), left, top, right, bottom.
        known: (n_known, 4).
        crowd: of which known ones the overlap is the intersection over the area of the found one, as COCO has it.
    """
    shared = _shared_boxes(found, known)
    return _over_union(shared, _areas(found), _areas(known), crowd)


def mask_overlaps(found: Objects, known: Objects) -> Overlaps:
    """The same of masks, pixel by pixel."""
    shared = np.zeros((len(found), len(known)))
    near = _shared_boxes(_cut_boxes(found), _cut_boxes(known)) > 0
    for i, j in np.argwhere(near).tolist():
        shared[i, j] = _shared_pixels(found.cuts[i], known.cuts[j])
    areas = [
        np.array([np.count_nonzero(cut.mask) for cut in some.cuts], dtype=np.float64)
        for some in (found, known)
    ]
    return _over_union(shared, areas[0], areas[1], known.crowd)


def _over_union(
    shared: Overlaps, found: NDArray[np.float64], known: NDArray[np.float64], crowd: NDArray[np.bool_] | None
) -> Overlaps:
    union = found[:, None] + known[None, :] - shared
    if crowd is not None:
        union = np.where(crowd[None, :], found[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas


def _shared_boxes(found: Boxes, known: Boxes) -> Overlaps:
    low = np.maximum(found[:, None, :2], known[None, :, :2])
    high = np.minimum(found[:, None, 2:], known[None, :, 2:])
    shared: Overlaps = np.prod(np.maximum(high - low, 0), axis=2)
    return shared


def _cut_boxes(objects: Objects) -> Boxes:
    return np.array([cut.box for cut in objects.cuts], dtype=np.float64).reshape(len(objects), 4)


def _shared_pixels(one: Cut, other: Cut) -> int:
    left, top = max(one.x_px, other.x_px), max(one.y_px, other.y_px)
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    parts = [
        cut.mask[top - cut.y_px : bottom - cut.y_px, left - cut.x_px : right - cut.x_px]
        for cut in (one, other)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))
