"""Which tokens of a map are tissue, and how those are cut into strips: the plan of a pass that leaves glass out.

The tissue is made of whole patches, and a patch of whole tokens at every stage. So within a row of patches every row of
tokens has tissue in the same columns, and is kept as those columns side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.inference.plan import EncodePlan, RowRange, StagePlan, count_ranges, split_rows, with_kept


@dataclass(frozen=True)
class Columns:
    """The columns of tissue in a row of patches, in tokens: runs [first, last) with glass between them."""

    runs: tuple[tuple[int, int], ...]

    @cached_property
    def count(self) -> int:
        """Tokens of tissue in a row."""
        return sum(last - first for first, last in self.runs)

    @cached_property
    def places(self) -> Tensor:
        """Where each of them is in the whole row, int64 (count,)."""
        return torch.cat([torch.arange(first, last) for first, last in self.runs])

    @cached_property
    def pieces(self) -> list[tuple[int, int, slice]]:
        """Of each run its columns [first, last), and where they are side by side."""
        edges = [0, *accumulate(last - first for first, last in self.runs)]
        return [(*run, slice(*edge)) for run, edge in zip(self.runs, pairwise(edges), strict=True)]

    @cached_property
    def spread_pieces(self) -> list[tuple[int, int, slice, slice]]:
        """`pieces`, and where they are in a row in which each run has one more column on either side."""
        places = [slice(p.start + 2 * i + 1, p.stop + 2 * i + 1) for i, (_, _, p) in enumerate(self.pieces)]
        return [(*piece, place) for piece, place in zip(self.pieces, places, strict=True)]

    @cached_property
    def spread_runs(self) -> Tensor:
        """Of each run its first place side by side, its length and its first place in such a row: int64 (runs, 3)."""
        return torch.tensor([(p.start, p.stop - p.start, wide.start) for _, _, p, wide in self.spread_pieces])

    @property
    def spread_width(self) -> int:
        """Length of such a row."""
        return self.count + 2 * len(self.runs)

    def take(self, rows: Tensor) -> Tensor:
        """Those columns of (..., width, C), side by side: a copy (..., count, C)."""
        return torch.cat([rows[..., first:last, :] for first, last in self.runs], dim=-2)

    def put(self, found: Tensor, rows: Tensor) -> None:
        """Write what `take` took (..., count, C) to its places in ``rows`` (..., width, C)."""
        for first, last, place in self.pieces:
            rows[..., first:last, :] = found[..., place, :]


@dataclass(frozen=True)
class SparseStrip:
    """Rows [first, last) of a map, within one row of patches, and its columns of tissue."""

    first: int
    last: int
    columns: Columns

    @property
    def tokens(self) -> int:
        """Tokens of tissue."""
        return (self.last - self.first) * self.columns.count


@dataclass(frozen=True, kw_only=True)
class SparseStage:
    """One stage.

    Attributes:
        dense: widths and dtype; its ranges are not those of the tissue.
        strips: of the tissue, from top to bottom.
        ranges: [first, last) strips that a worker takes at a time.
        rows_per_patch: rows of tokens of a patch.
    """

    dense: StagePlan
    strips: tuple[SparseStrip, ...]
    ranges: tuple[tuple[int, int], ...]
    rows_per_patch: int

    @cached_property
    def starts(self) -> list[int]:
        """Tokens of tissue above each strip, and of all."""
        return [0, *accumulate(strip.tokens for strip in self.strips)]

    @property
    def tokens(self) -> int:
        """Tokens of tissue."""
        return self.starts[-1]

    @property
    def map_layout(self) -> Layout:
        """The tissue of the residual map in memory, and what is kept between the passes of a block."""
        return self.dense.layout_of(self.tokens)

    @property
    def border_bytes(self) -> int:
        """The two projected rows beside each range, over the whole width."""
        return 2 * len(self.ranges) * self.dense.width * self.dense.d_inner * self.dense.dtype.itemsize

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest strip, with the columns beside its runs and a row above and below."""
        return max((s.last - s.first + 2) * s.columns.spread_width for s in self.strips)


def plan_sparse(plan: EncodePlan, tissue: NDArray[np.bool_]) -> tuple[SparseStage, ...]:
    """Plan the tissue of a region.

    Args:
        plan: of the whole region.
        tissue: (rows, columns) of patches, together the region.
    """
    return tuple(_plan_stage(stage, tissue) for stage in plan.stages)


def keep_inputs(stages: tuple[SparseStage, ...], *, spare_bytes: int = 0) -> tuple[SparseStage, ...]:
    """Keep between the passes of a block what the block of maps has room for; see `plan.plan_encode`."""
    room = max(spare_bytes, *(layout_bytes(stage.map_layout) for stage in stages))
    return tuple(replace(stage, dense=with_kept(stage.dense, room, stage.tokens)) for stage in stages)


def _plan_stage(stage: StagePlan, tissue: NDArray[np.bool_]) -> SparseStage:
    rows = stage.height // tissue.shape[0]
    strips: list[SparseStrip] = []
    for row in np.flatnonzero(tissue.any(axis=1)).tolist():
        columns = Columns(_runs(tissue[row], rows))
        for first, last in _cut(rows, about=stage.strip_rows):
            strips.append(SparseStrip(row * rows + first, row * rows + last, columns))
    return SparseStage(
        dense=replace(stage, keep_u=False, keep_proj=False),
        strips=tuple(strips),
        ranges=_cut_by_tokens(strips, stage),
        rows_per_patch=rows,
    )


def _runs(row: NDArray[np.bool_], tokens: int) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.pad(row, 1).astype(np.int8))) * tokens
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _cut(rows: int, *, about: int) -> list[tuple[int, int]]:
    """Strips of a row of patches."""
    part: RowRange = split_rows(rows, parts=1, strip_rows=about)[0]
    return part.strips


def _cut_by_tokens(strips: Sequence[SparseStrip], stage: StagePlan) -> tuple[tuple[int, int], ...]:
    """Ranges of strips with about as many tokens each, as many as a map of so many tokens is cut into."""
    below = np.cumsum([strip.tokens for strip in strips])
    total = int(below[-1])
    d_state = stage.scan_lanes // (-(-stage.d_inner // 16) * 16)
    width = max(1, total // stage.height)
    parts = min(len(strips), count_ranges(height=stage.height, width=width, d_state=d_state))
    cuts = [int(np.searchsorted(below, total * i / parts, side="left")) for i in range(1, parts)]
    edges = sorted({0, len(strips), *(cut for cut in cuts if cut > 0)})
    return tuple(pairwise(edges))
