"""Into which boxes the kept patches of a slide are divided, so that little background is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: A cut is made where it spares the encoder at least this much background: 0.4 CPU-s of `vmamba_pico`, while one
#: more region costs 0.04.
WORTH_PX = 1 << 20


def cut_patches(kept: NDArray[np.bool_], *, longest: int, worth: int) -> list[NDArray[np.int64]]:
    """Divide patches among boxes.

    Cuts go through the background where that leaves enough of it out. Tissue is divided only where a box would be
    too long otherwise, and then in equal parts: a strip of one patch would be encoded without context.

    Args:
        kept: (rows, columns), the patches to divide.
        longest: most patches along a side of a box.
        worth: least number of background patches that a cut has to leave out; at least 1.

    Returns:
        For each box its patches (column, row), int64 (n, 2), row by row.
    """
    boxes = []
    for top, left, box in _divide(kept, longest=longest, worth=worth):
        patches = np.argwhere(box)[:, ::-1] + (left, top)
        boxes.append(patches.astype(np.int64))
    return boxes


def _divide(
    kept: NDArray[np.bool_], *, longest: int, worth: int
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Rows above, columns to the left and the patches of each box; a box has patches on all four sides."""
    waiting = [(0, 0, kept)]
    while waiting:
        top, left, box = waiting.pop()
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        if len(rows) == 0:
            continue
        top, left = top + int(rows[0]), left + int(columns[0])
        box = box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        row_edges, column_edges = _edges(box, longest=longest, worth=worth)
        if len(row_edges) == len(column_edges) == 2:
            yield top, left, box
            continue
        parts = [
            (top + y0, left + x0, box[y0:y1, x0:x1])
            for y0, y1 in pairwise(row_edges)
            for x0, x1 in pairwise(column_edges)
        ]
        waiting += reversed(parts)  # the first is taken next: boxes come in reading order


def _edges(box: NDArray[np.bool_], *, longest: int, worth: int) -> tuple[list[int], list[int]]:
    """Where a box is cut, by row and by column: at its best gap, else in equal parts if it is too long."""
    (rows, columns), (by_row, by_column) = box.shape, (_spared(box), _spared(box.T))
    if max(by_row.max(), by_column.max()) >= worth:
        if by_row.max() >= by_column.max():
            return [0, int(by_row.argmax()), rows], [0, columns]
        return [0, rows], [0, int(by_column.argmax()), columns]
    return _equal(rows, longest), _equal(columns, longest)


def _equal(length: int, longest: int) -> list[int]:
    parts = -(-length // longest)
    return [-(-i * length // parts) for i in range(parts + 1)]


def _spared(box: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Background patches left out when a box is cut above each of its rows; 0 where tissue touches across the cut."""
    aside = np.pad(box, ((0, 0), (1, 1)))
    wider = aside[:, :-2] | aside[:, 1:-1] | aside[:, 2:]
    spared = np.zeros(len(box), dtype=np.int64)
    spared[1:] = box.size - _areas_above(box)[:-1] - _areas_above(box[::-1])[::-1][1:]
    spared[1:][(box[:-1] & wider[1:]).any(axis=1)] = 0
    return spared


def _areas_above(box: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row, the area of the bounding box of the patches in it and above; the first row has patches."""
    rows, columns = box.shape
    filled = box.any(axis=1)
    first = np.where(filled, box.argmax(axis=1), columns)
    last = np.where(filled, columns - 1 - box[:, ::-1].argmax(axis=1), -1)
    height = np.maximum.accumulate(np.where(filled, np.arange(rows) + 1, 0))
    width = np.maximum.accumulate(last) - np.minimum.accumulate(first) + 1
    areas: NDArray[np.int64] = height * width
    return areas
