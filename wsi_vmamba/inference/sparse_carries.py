"""The carries of strips that each have columns of their own; a column that a strip lacks crosses it unchanged."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from wsi_vmamba.inference.carries import CarriesInFiles
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.sparse_plan import Columns, SparseStage
from wsi_vmamba.ops.cpu_module import native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights
from wsi_vmamba.ops.strips import strip_arrays


class SparseCarriesInMemory:
    """Carries of one block at a time, in memory that the blocks of a stage share.

    The upward column direction has a slot of the whole width for each strip, and where a strip has glass, the
    transition there changes nothing: decay 1, state 0.
    """

    def __init__(self, stage: SparseStage) -> None:
        """Allocate for the tissue of a stage; `begin` takes the weights of a block."""
        self._columns = [strip.columns for strip in stage.strips]
        counts = [last - first for first, last in stage.ranges]
        self._range_of = [r for r, count in enumerate(counts) for _ in range(count)]
        self._starts = frozenset([0, *accumulate(counts)][:-1])
        groups, width = stage.dense.scan_lanes // BLOCK, stage.dense.width
        slots, strips = len(counts), sum(counts)
        # Decays and states.
        self._row_forward = torch.empty(2, slots, groups, 1, BLOCK)
        self._column_forward = torch.empty(2, slots, groups, width, BLOCK)
        self._row_backward = torch.empty(2, strips, groups, 1, BLOCK)
        self._column_backward = torch.ones(2, strips, groups, width, BLOCK)

    def begin(self, weights: ScanWeights) -> None:
        """Forget what was, and take the weights of a block."""
        self.weights = weights
        self._column_forward[0] = 1
        self._column_forward[1] = 0
        self._column_backward[1] = 0  # decays of glass are 1 still, and those of tissue are written anew

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.summarize`."""
        slot, places = self._range_of[strip], self._columns[strip]
        row, column = summarize_strip(
            self.weights,
            u,
            proj,
            rows=self._row_forward[:, slot : slot + 1],
            columns=self._column_forward[:, slot],
            places=places,
            fresh=strip in self._starts,
            first=strip == 0,
            last=slot + 1 == self._row_forward.shape[1],
        )
        self._row_backward[:, strip] = row
        places.put(column, self._column_backward[:, strip])

    def combine(self, *, threads: int) -> None:
        """See `cpu.StripCarries.combine`."""
        for (decay, state), backward in (
            (self._row_forward, False),
            (self._column_forward, False),
            (self._row_backward, True),
            (self._column_backward, True),
        ):
            native().combine(decay, state, backward, threads, "")

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        slot, places = self._range_of[strip], self._columns[strip]
        apply_strip(
            self.weights,
            u,
            proj,
            y,
            row_forward=self._row_forward[1, slot : slot + 1],
            column_forward=self._column_forward[1, slot],
            row_backward=self._row_backward[1, strip : strip + 1],
            column_backward=places.take(self._column_backward[1, strip]),
            places=places,
        )


class SparseCarriesInFiles(CarriesInFiles):
    """The same with what grows with the map on the disk."""

    def __init__(self, weights: ScanWeights, *, stage: SparseStage, scratch: Scratch, name: str) -> None:
        """See `CarriesInFiles`."""
        counts = [last - first for first, last in stage.ranges]
        super().__init__(weights, width=stage.dense.width, ranges=counts, scratch=scratch, name=name)
        self._columns = [strip.columns for strip in stage.strips]
        self._offsets = [0]
        for columns in self._columns:
            self._offsets.append(self._offsets[-1] + 2 * self._groups * columns.count * BLOCK * 4)

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.summarize`."""
        slot, places = self._range_of[strip], self._columns[strip]
        if strip in self._starts:
            self._column_forward[0, slot] = 1
            self._column_forward[1, slot] = 0
        row, column = summarize_strip(
            self.weights,
            u,
            proj,
            rows=self._row_forward[:, slot : slot + 1],
            columns=self._column_forward[:, slot],
            places=places,
            fresh=strip in self._starts,
            first=strip == 0,
            last=slot + 1 == self._row_forward.shape[1],
        )
        self._row_backward[:, strip] = row
        self._write(column.contiguous(), self._offsets[strip])

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        slot, places = self._range_of[strip], self._columns[strip]
        column = torch.empty(self._groups, places.count, BLOCK)
        self._read(column, self._offsets[strip] + column.nbytes)
        apply_strip(
            self.weights,
            u,
            proj,
            y,
            row_forward=self._row_forward[1, slot : slot + 1],
            column_forward=self._column_forward[1, slot],
            row_backward=self._row_backward[1, strip : strip + 1].clone(),
            column_backward=column,
            places=places,
        )

    def _spans(self, strip: int, kind: int, first: int, last: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """Of columns [first, last) those that a strip has, and where each group has them: (start, count)."""
        places = self._columns[strip].places
        low, high = torch.searchsorted(places, torch.tensor([first, last])).tolist()
        starts = [
            self._offsets[strip] + ((kind * self._groups + group) * len(places) + low) * BLOCK * 4
            for group in range(self._groups)
        ]
        return places[low:high] - first, [(start, high - low) for start in starts]

    def _fill_piece(self, into: Tensor, strip: int, kind: int, first: int, last: int) -> None:
        places, spans = self._spans(strip, kind, first, last)
        for group, (start, count) in enumerate(spans):
            found = torch.empty(count, BLOCK)
            self._read(found, start)
            into[group, places] = found

    def _keep_piece(self, state: Tensor, strip: int, first: int, last: int) -> None:
        places, spans = self._spans(strip, 1, first, last)
        for group, (start, _) in enumerate(spans):
            self._write(state[group, places], start)


def summarize_strip(
    weights: ScanWeights,
    u: Tensor,
    proj: Tensor,
    *,
    rows: Tensor,
    columns: Tensor,
    places: Columns,
    fresh: bool,
    first: bool,
    last: bool,
) -> tuple[Tensor, Tensor]:
    """What a strip does to the states that pass through it.

    Args:
        weights: of the block.
        u: (n, count, D); ``proj`` (n, count, 4 * (R + 2 N)).
        proj: see there.
        rows: decays and states (2, 1, groups, 1, 16) of the forward rows of its range, which are carried on.
        columns: likewise (2, groups, width, 16) of the forward columns.
        places: the columns that the strip has.
        fresh: it is the first of its range.
        first: it is the first of all.
        last: its range is the last.

    Returns:
        Decays and states of the backward rows (2, groups, 1, 16) and columns (2, groups, count, 16).
    """
    groups = columns.shape[1]
    forward = places.take(columns).unsqueeze(1)
    # The kernel leaves the rows of slot 0 out, which nothing is above of: any other strip has to look like another.
    place = 0 if first else 1
    row = torch.empty(2, 1 + place, groups, 1, BLOCK)
    column = torch.empty(2, 1 + place, groups, places.count, BLOCK)
    native().summarize_strip(
        *strip_arrays(weights, u, proj, width=places.count),
        [rows[0], forward[0], row[0], column[0]],
        [rows[1], forward[1], row[1], column[1]],
        0,
        place,
        fresh,
        not last,
        "",
    )
    places.put(forward[:, 0], columns)
    return row[:, place], column[:, place]


def apply_strip(
    weights: ScanWeights,
    u: Tensor,
    proj: Tensor,
    y: Tensor,
    *,
    row_forward: Tensor,
    column_forward: Tensor,
    row_backward: Tensor,
    column_backward: Tensor,
    places: Columns,
) -> None:
    """Write the scan of a strip to ``y``, and carry its states on.

    Args:
        weights: of the block.
        u: see `summarize_strip`; ``proj`` and ``places`` likewise.
        proj: see there.
        y: (n, count, D) float32.
        row_forward: states (1, groups, 1, 16), which are carried on.
        column_forward: likewise (groups, width, 16), of all columns.
        row_backward: (1, groups, 1, 16), which is changed.
        column_backward: (groups, count, 16), which is changed.
        places: see there.
    """
    forward = places.take(column_forward)
    states = [row_forward, forward[None], row_backward, column_backward[None]]
    native().apply_strip(*strip_arrays(weights, u, proj, width=places.count), states, 0, 0, y, "")
    places.put(forward, column_forward)
