"""The carries of strips that each have columns of their own; a column that a strip lacks crosses it unchanged."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from wsi_vmamba.inference.carries import CarriesInFiles
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.sparse_plan import Columns, SparseStage
from wsi_vmamba.ops.cpu_module import native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights
from wsi_vmamba.ops.strips import ranges_of_strips, strip_arrays


class _TissueCarries(ABC):
    """Carries of strips with columns of their own, wherever the upward column direction lies.

    Attributes:
        weights: of the block.
    """

    weights: ScanWeights
    _columns: list[Columns]
    _range_of: list[int]
    _starts: frozenset[int]
    # Decays and states (2, ranges or strips, groups, columns, 16).
    _row_forward: Tensor
    _column_forward: Tensor
    _row_backward: Tensor

    @abstractmethod
    def _keep_upward(self, strip: int, transition: Tensor) -> None:
        """Take what a strip does to the states of its columns from below: decays and states (2, groups, count, 16)."""

    @abstractmethod
    def _entering_upward(self, strip: int) -> Tensor:
        """The states (groups, count, 16) that enter the columns of a strip from below, for the caller to change."""

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.summarize`."""
        slot, places = self._range_of[strip], self._columns[strip]
        fresh = strip in self._starts
        if fresh:
            self._column_forward[0, slot] = 1
            self._column_forward[1, slot] = 0
        groups = self._column_forward.shape[2]
        rows = self._row_forward[:, slot : slot + 1]
        forward = places.take(self._column_forward[:, slot]).unsqueeze(1)
        # The kernel leaves the rows of slot 0 out, which nothing is above of: any other strip has to look like another.
        place = min(strip, 1)
        row = torch.empty(2, 1 + place, groups, 1, BLOCK)
        column = torch.empty(2, 1 + place, groups, places.count, BLOCK)
        native().summarize_strip(
            *strip_arrays(self.weights, u, proj, width=places.count),
            [rows[0], forward[0], row[0], column[0]],
            [rows[1], forward[1], row[1], column[1]],
            0,
            place,
            fresh,
            slot + 1 < self._row_forward.shape[1],
            "",
        )
        places.put(forward[:, 0], self._column_forward[:, slot])
        self._row_backward[:, strip] = row[:, place]
        self._keep_upward(strip, column[:, place])

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        slot, places = self._range_of[strip], self._columns[strip]
        forward = places.take(self._column_forward[1, slot])
        states = [
            self._row_forward[1, slot : slot + 1],
            forward[None],
            self._row_backward[1, strip : strip + 1].clone(),
            self._entering_upward(strip)[None],
        ]
        arrays = strip_arrays(self.weights, u, proj, width=places.count)
        native().apply_strip(*arrays, states, 0, 0, y, "")
        places.put(forward, self._column_forward[1, slot])


class SparseCarriesInMemory(_TissueCarries):
    """Carries of one block at a time, in memory that the blocks of a stage share.

    The upward column direction has a slot of the whole width for each strip, and where a strip has glass, the
    transition there changes nothing: decay 1, state 0.
    """

    def __init__(self, stage: SparseStage) -> None:
        """Allocate for the tissue of a stage; `begin` takes the weights of a block."""
        self._columns = [strip.columns for strip in stage.strips]
        counts = [last - first for first, last in stage.ranges]
        self._range_of, self._starts = ranges_of_strips(counts)
        groups, width = stage.dense.scan_lanes // BLOCK, stage.dense.width
        slots, strips = len(counts), sum(counts)
        self._row_forward = torch.empty(2, slots, groups, 1, BLOCK)
        self._column_forward = torch.empty(2, slots, groups, width, BLOCK)
        self._row_backward = torch.empty(2, strips, groups, 1, BLOCK)
        self._column_backward = torch.ones(2, strips, groups, width, BLOCK)

    def begin(self, weights: ScanWeights) -> None:
        """Forget what was, and take the weights of a block."""
        self.weights = weights
        self._column_backward[1] = 0  # decays of glass are 1 still, and those of tissue are written anew

    def combine(self, *, threads: int) -> None:
        """See `cpu.StripCarries.combine`."""
        for (decay, state), backward in (
            (self._row_forward, False),
            (self._column_forward, False),
            (self._row_backward, True),
            (self._column_backward, True),
        ):
            native().combine(decay, state, backward, threads, "")

    def _keep_upward(self, strip: int, transition: Tensor) -> None:
        self._columns[strip].put(transition, self._column_backward[:, strip])

    def _entering_upward(self, strip: int) -> Tensor:
        return self._columns[strip].take(self._column_backward[1, strip])


class SparseCarriesInFiles(_TissueCarries, CarriesInFiles):
    """The same with what grows with the map on the disk."""

    def __init__(self, weights: ScanWeights, *, stage: SparseStage, scratch: Scratch, name: str) -> None:
        """See `CarriesInFiles`."""
        counts = [last - first for first, last in stage.ranges]
        super().__init__(weights, width=stage.dense.width, ranges=counts, scratch=scratch, name=name)
        self._columns = [strip.columns for strip in stage.strips]
        self._offsets = [0]
        for columns in self._columns:
            self._offsets.append(self._offsets[-1] + 2 * self._groups * columns.count * BLOCK * 4)

    def _keep_upward(self, strip: int, transition: Tensor) -> None:
        self._write(transition.contiguous(), self._offsets[strip])

    def _entering_upward(self, strip: int) -> Tensor:
        states = torch.empty(self._groups, self._columns[strip].count, BLOCK)
        self._read(states, self._offsets[strip] + states.nbytes)
        return states

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
