"""The outline of a mask as polygons along the edges of its pixels, so that drawing them gives the mask again."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.tissue.mask import TissueMask


def tissue_polygons(tissue: TissueMask) -> tuple[Any, ...]:
    """Return the pieces of tissue as shapely polygons in level-0 pixels, holes kept, in reading order.

    Pixels that touch by a corner only are separate pieces. Drawn with the rule "tissue where the centre of the mask
    pixel lies inside", on the same grid, they give exactly the mask again.
    """
    return mask_polygons(tissue.mask, pixel=tissue.downsample)


def mask_polygons(mask: NDArray[np.bool_], *, pixel: float = 1.0) -> tuple[Any, ...]:
    """Return the pieces of a mask (H, W) as shapely polygons, as `tissue_polygons` does.

    Args:
        mask: True where the area is.
        pixel: side of its pixels in the frame of the polygons, whose origin is the corner of the mask.
    """
    boxes = _row_boxes(mask)
    if not len(boxes):
        return ()
    # Whole mask pixels first: the union of whole numbers is exact, scaling comes after.
    merged = shapely.union_all(shapely.box(*boxes.T))
    scaled = shapely.transform(merged, lambda points: points * pixel)
    pieces = [piece for piece in shapely.get_parts(scaled) if isinstance(piece, shapely.Polygon)]
    return tuple(sorted(pieces, key=lambda piece: (piece.bounds[1], piece.bounds[0])))


def _row_boxes(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(left, top, right, bottom) of the runs of True, one a row; runs that repeat downwards are one box."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, left = np.nonzero(steps == 1)
    _, right = np.nonzero(steps == -1)
    if not len(rows):
        return np.empty((0, 4))
    # Runs with equal ends in consecutive rows, brought next to each other.
    order = np.lexsort((rows, right, left))
    rows, left, right = rows[order], left[order], right[order]
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (np.diff(left) != 0) | (np.diff(right) != 0) | (np.diff(rows) != 1)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(rows)) - 1
    return np.stack([left[first], rows[first], right[first], rows[last] + 1], axis=1).astype(np.float64)
