"""Where the tissue of a map lies: side by side in memory, or strip by strip in files of a scratch folder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from wsi_vmamba.inference.residual import Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.sparse_carries import SparseCarriesInFiles
from wsi_vmamba.inference.sparse_plan import SparseStage


class SparseMapInMemory:
    """The tissue of a map in memory, changed in place: `SparseMap` of a block, and what convolutions read."""

    def __init__(self, x: Tensor, stage: SparseStage) -> None:
        """Take the memory ``x`` (tokens of tissue, d_model), strip after strip, row after row."""
        self.stage = stage
        self._strips = strips_of(x, stage)

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """See `SparseMap.strip`: the map's own memory."""
        return self._strips[strip][rows]

    def begin(self, part: int) -> Reached:
        """See `SparseMap.begin`: nothing outlives the process."""
        return Reached(0, None)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `SparseMap.finish`: the rows are in their place already."""


class SparseMapInFiles:
    """The tissue of a map, each strip a file: see `residual.MapInFiles`."""

    def __init__(self, scratch: Scratch, name: str, stage: SparseStage) -> None:
        """Name the map; its files need not be there yet."""
        self.stage = stage
        self._scratch = scratch
        self._name = name

    def shape(self, strip: int) -> tuple[int, int, int]:
        """(rows, tokens of tissue, d_model) of a strip."""
        found = self.stage.strips[strip]
        return found.last - found.first, found.columns.count, self.stage.dense.d_model

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """See `SparseMap.strip`."""
        height, width, dim = self.shape(strip)
        first, last, _ = rows.indices(height)
        out = torch.empty(last - first, width, dim, dtype=self.stage.dense.dtype)
        self._scratch.read_part(f"{self._name}.{strip}", out, offset=first * out[0].nbytes)
        return out

    def write(self, strip: int, rows: Tensor) -> None:
        """Keep a strip."""
        self._scratch.write(f"{self._name}.{strip}", [rows.contiguous()])

    def n_written(self) -> int:
        """How many strips are there, counted from the top down to the first that is not."""
        n_strips = len(self.stage.strips)
        return next((i for i in range(n_strips) if not self._scratch.has(f"{self._name}.{i}")), n_strips)

    def drop(self, strips: list[int]) -> None:
        """Remove strips; those that are gone already do not matter."""
        for strip in strips:
            self._scratch.drop(f"{self._name}.{strip}")


class ChangingTissue:
    """The map of a block: old strips are read and removed, new ones written; see `SparseMap`."""

    def __init__(
        self,
        old: SparseMapInFiles,
        new: SparseMapInFiles,
        carries: SparseCarriesInFiles,
        count: Callable[[int], None],
    ) -> None:
        """Take the two maps and the carries of the block; ``count`` is told of tokens that are done."""
        self._old = old
        self._new = new
        self._carries = carries
        self._count = count

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """See `SparseMap.strip`."""
        return self._old.strip(strip, rows=rows)

    def begin(self, part: int) -> Reached:
        """See `SparseMap.begin`."""
        stage = self._old.stage
        beside = torch.empty(2, stage.dense.width, stage.dense.d_inner, dtype=stage.dense.dtype)
        done = self._carries.take_up_range(part, beside)
        first = stage.ranges[part][0]
        self._count(sum(strip.tokens for strip in stage.strips[first : first + done]))
        return Reached(done, beside if done else None)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `SparseMap.finish`."""
        self._new.write(strip, rows)
        self._carries.keep_range(part, strip + 1 - self._old.stage.ranges[part][0], beside)
        self._old.drop([strip])
        self._count(self._old.stage.strips[strip].tokens)


def strips_of(x: Tensor, stage: SparseStage) -> list[Tensor]:
    """Cut memory (tokens of tissue, channels) into its strips (rows, tokens of tissue, channels)."""
    return [
        x[first:last].view(strip.last - strip.first, strip.columns.count, -1)
        for strip, (first, last) in zip(stage.strips, pairwise(stage.starts), strict=True)
    ]
