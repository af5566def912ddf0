"""A large picture in overlapping windows, and one list of objects from those of all windows.

An object that touches the edge of a window, where that is no edge of the picture, is cut there and left out: a
neighbour sees it whole if it is no longer than the overlap. What several windows found is then kept once, the one of
the highest score first, by the overlap of boxes among objects of one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.detection.objects import Objects, join
from wsi_vmamba.detection.overlap import box_overlaps
from wsi_vmamba.errors import UsageError

#: Nearer to an edge than this, in pixels, an object touches it.
_TOUCHING_PX = 2.0


@dataclass(frozen=True, kw_only=True, order=True)
class Window:
    """A rectangle that the detector sees at once, in pixels of the picture."""

    y_px: int
    x_px: int
    width_px: int
    height_px: int


def cover(*, width_px: int, height_px: int, window_px: int, overlap_px: int) -> tuple[Window, ...]:
    """Windows that cover a picture, row by row; the last of a row or column is moved back to end at the edge.

    Neighbours share at least ``overlap_px``. A picture smaller than a window is one window of its own size.

    Raises:
        UsageError: the overlap is not less than the window.
    """
    if not 0 <= overlap_px < window_px:
        raise UsageError(
            f"the overlap must be at least 0 and less than the window, got {overlap_px} and {window_px} px"
        )
    rows, columns = (_starts(length, window_px, overlap_px) for length in (height_px, width_px))
    return tuple(
        Window(y_px=y, x_px=x, width_px=min(window_px, width_px), height_px=min(window_px, height_px))
        for y in rows
        for x in columns
    )


def _starts(length: int, window: int, overlap: int) -> list[int]:
    if length <= window:
        return [0]
    step = window - overlap
    return [*range(0, length - window, step), length - window]


def whole_objects(found: Objects, window: Window, *, width_px: int, height_px: int) -> Objects:
    """The objects of a window, in the frame of the picture, without those that its inner edges cut.

    Args:
        found: in the frame of the window.
        window: where they were found.
        width_px: of the picture.
        height_px: of the picture.
    """
    left, top, right, bottom = found.boxes.T
    cut = np.zeros(len(found), dtype=np.bool_)
    if window.x_px > 0:
        cut |= left < _TOUCHING_PX
    if window.y_px > 0:
        cut |= top < _TOUCHING_PX
    if window.x_px + window.width_px < width_px:
        cut |= right > window.width_px - _TOUCHING_PX
    if window.y_px + window.height_px < height_px:
        cut |= bottom > window.height_px - _TOUCHING_PX
    return found.take(~cut).moved(x_px=window.x_px, y_px=window.y_px)


def merge(parts: Sequence[Objects], *, most_overlap: float = 0.5) -> Objects:
    """One list without repetitions, from the highest score down.

    Args:
        parts: of the windows, in the frame of the picture.
        most_overlap: objects of a class whose boxes overlap (intersection over union) by more are one.
    """
    every = join(parts)
    ranked = every.take(np.argsort(-every.scores, kind="stable"))
    return ranked.take(_kept(ranked, most_overlap))


def _kept(ranked: Objects, most_overlap: float) -> NDArray[np.bool_]:
    kept = np.ones(len(ranked), dtype=np.bool_)
    tree = shapely.STRtree(shapely.box(*ranked.boxes.T))
    for place in range(len(ranked)):
        if not kept[place]:
            continue
        near = tree.query(shapely.box(*ranked.boxes[place]))
        near = near[(near > place) & (ranked.labels[near] == ranked.labels[place])]
        overlaps = box_overlaps(ranked.boxes[place : place + 1], ranked.boxes[near])[0]
        kept[near[overlaps > most_overlap]] = False
    return kept
