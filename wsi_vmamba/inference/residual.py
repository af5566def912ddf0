"""Where the residual map of a block lies: whole in memory, or strip by strip in files of a scratch folder."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wsi_vmamba.inference.plan import StagePlan
from wsi_vmamba.inference.scratch import Scratch


class Reached(NamedTuple):
    """How far the second pass of a block is in one range.

    Attributes:
        strips: of the range that are finished.
        beside: (2, width, d_inner), the scan input's rows around the lower edge of the last of them before it was
            replaced: its own last row and the row below; None before the first.
    """

    strips: int
    beside: Tensor | None


class ResidualMap(Protocol):
    """The map (height, width, d_model) that a block changes: rows are read in both passes, replaced in the second."""

    def rows(self, first: int, last: int, buffer: Tensor | None) -> Tensor:
        """Rows [first, last), contiguous: the map's own memory, or ``buffer`` filled with them."""
        ...

    def begin(self, part: int) -> Reached:
        """Where the second pass goes on in range number ``part``."""
        ...

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """Take the new rows of a strip, counted over all ranges; ``beside`` as in `Reached`."""
        ...


@dataclass(frozen=True)
class MapInMemory:
    """A map that lies in memory and is changed in place."""

    x: Tensor

    def rows(self, first: int, last: int, buffer: Tensor | None) -> Tensor:
        """See `ResidualMap.rows`."""
        return self.x[first:last]

    def begin(self, part: int) -> Reached:
        """See `ResidualMap.begin`: nothing outlives the process."""
        return Reached(0, None)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `ResidualMap.finish`: the rows are in their place already."""


class MapInFiles:
    """A map of which each strip is a file; a strip is there, whole, or it is not."""

    def __init__(self, scratch: Scratch, name: str, stage: StagePlan) -> None:
        """Name the map; its files need not be there yet."""
        self.stage = stage
        self.strips = [strip for part in stage.ranges for strip in part.strips]
        self._scratch = scratch
        self._name = name
        self._starts = [first for first, _ in self.strips]

    def rows(self, first: int, last: int, buffer: Tensor | None) -> Tensor:
        """Rows [first, last) in ``buffer``, or in memory of their own; see `ResidualMap.rows`."""
        shape = (last - first, self.stage.width, self.stage.d_model)
        out = torch.empty(shape, dtype=self.stage.dtype) if buffer is None else buffer[: last - first]
        row_bytes = self.stage.width * self.stage.d_model * self.stage.dtype.itemsize
        row = first
        while row < last:
            strip = bisect_right(self._starts, row) - 1
            start, stop = self.strips[strip]
            stop = min(stop, last)
            self._scratch.read_part(
                self._file(strip), out[row - first : stop - first], offset=(row - start) * row_bytes
            )
            row = stop
        return out

    def write(self, strip: int, rows: Tensor) -> None:
        """Keep the rows of a strip."""
        self._scratch.write(self._file(strip), [rows])

    def n_written(self) -> int:
        """How many strips are there, counted from the top down to the first that is not."""
        return next(
            (i for i in range(len(self.strips)) if not self._scratch.has(self._file(i))), len(self.strips)
        )

    def drop(self, strips: Sequence[int] | range | None = None) -> None:
        """Remove strips, or all; those that are gone already do not matter."""
        for strip in range(len(self.strips)) if strips is None else strips:
            self._scratch.drop(self._file(strip))

    def _file(self, strip: int) -> str:
        return f"{self._name}.{strip}"
