"""One rectangle of the target canvas, filled from the source rows under it as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.rescale import compiled, reference
from wsi_vmamba.rescale.taps import COLUMN_BITS, ROW_BITS, FillBlock, Taps, is_whole, taps_of

#: Calls a function on each number, possibly in parallel, and returns when all are done.
RunAll = Callable[[Callable[[int], None], Sequence[int]], None]

#: Target columns per task: what a task works on stays in the cache.
_TASK_PX = 256


class Method(Protocol):
    """A way to make target pixels, prepared for the columns of a rectangle."""

    def prepare(self, rows: Taps) -> FillBlock:
        """Prepare for some target rows; what comes back is called from several threads."""


class Rescaler:
    """Makes one rectangle of the target canvas from the source pixels under it, any rows at a time.

    Attributes:
        left: first source column needed; right: one past the last.
        right: one past the last source column needed.
        rows: which source rows make each target row of the rectangle.
    """

    def __init__(
        self,
        *,
        x_px: int,
        y_px: int,
        width_px: int,
        height_px: int,
        scale: float,
        cubic: Callable[[Taps], Method] | None = None,
    ) -> None:
        """Prepare for a rectangle of target pixels.

        Args:
            x_px: its left edge on the target canvas.
            y_px: its top edge on the target canvas.
            width_px: its width.
            height_px: its height.
            scale: source pixels per target pixel.
            cubic: `compiled.Cubic` or `reference.Cubic`, which give the same bytes; None for the first of them
                that is here.
        """
        self.rows = taps_of(y_px, height_px, scale=scale, bits=ROW_BITS)
        columns = taps_of(x_px, width_px, scale=scale, bits=COLUMN_BITS)
        self.left, self.right = int(columns.first[0]), int(columns.end[-1])
        self._columns = columns
        if cubic is None:
            cubic = compiled.Cubic if compiled.available else reference.Cubic
        self._method: Method = _AreaMean() if is_whole(scale) else cubic(columns)

    def fill(
        self,
        out: NDArray[np.uint8],
        source: NDArray[np.uint8],
        *,
        start: int,
        stop: int,
        source_y_px: int,
        run_all: RunAll,
    ) -> None:
        """Fill target rows ``start`` to ``stop`` (exclusive, counted from the rectangle's top).

        Args:
            out: uint8, shape (height_px, width_px, 3), the whole rectangle.
            source: uint8, shape (h, right - left, 3): whole rows of the level, from column ``left``.
            start: first target row.
            stop: one past the last target row.
            source_y_px: level row of the source's first row.
            run_all: runs the tasks; each writes columns of its own.
        """
        rows = Taps(first=self.rows.first[start:stop], weights=self.rows.weights[start:stop])
        top, bottom = int(rows.first[0]), int(rows.end[-1])
        source = source[top - source_y_px : bottom - source_y_px]
        fill_block = self._method.prepare(rows)

        def task(column: int) -> None:
            target = out[start:stop, column : column + _TASK_PX]
            last = column + target.shape[1] - 1
            left, right = int(self._columns.first[column]), int(self._columns.end[last])
            fill_block(source[:, left - self.left : right - self.left], column, target)

        run_all(task, range(0, out.shape[1], _TASK_PX))


class _AreaMean:
    """Target pixels are means of whole blocks: OpenCV knows which without taps."""

    def prepare(self, rows: Taps) -> FillBlock:
        def fill(block: NDArray[np.uint8], column: int, target: NDArray[np.uint8]) -> None:
            target[:] = cv2.resize(block, target.shape[1::-1], interpolation=cv2.INTER_AREA)

        return fill
