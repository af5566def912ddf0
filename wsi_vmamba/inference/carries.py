"""The carries of a map in strips, with those that grow with the map on the disk: `cpu.StripCarries` in little memory.

Every strip has a transition of the upward column direction, as long as a row of the map: of a large slide these are
gigabytes. They are written as they come, combined some columns at a time, and read back strip by strip. What enters
a column is handed from one piece of columns to the next by a column put in front, whose transition forgets what it was
and sets that state, so the pieces are computed by the same kernel and rounded as one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from wsi_vmamba.errors import StoreError
from wsi_vmamba.inference.scratch import Scratch, bytes_of
from wsi_vmamba.ops.cpu_module import native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights
from wsi_vmamba.ops.strips import ranges_of_strips, strip_arrays

#: Memory that combining may take for its pieces of columns.
_COMBINE_BYTES = 64 << 20


class CarriesInFiles:
    """The methods and the bytes of `cpu.StripCarries`; another process can take the states up."""

    def __init__(
        self, weights: ScanWeights, *, width: int, ranges: Sequence[int], scratch: Scratch, name: str
    ) -> None:
        """Prepare for a map ``width`` tokens wide whose i-th range holds ``ranges[i]`` strips.

        Args:
            weights: of the block.
            width: of the map, in tokens.
            ranges: strips of each range.
            scratch: where the files lie.
            name: theirs, of this block alone: ``name.carries``, ``name.entering``, ``name.range.0``...
        """
        self.weights = weights
        self._width = width
        self._n_strips = sum(ranges)
        self._range_of, self._starts = ranges_of_strips(ranges)
        self._groups = weights.state * weights.padded // BLOCK
        # Forward directions by range, in memory; backward ones by strip, the columns' on the disk.
        self._row_forward = torch.empty(2, len(ranges), self._groups, 1, BLOCK)
        self._column_forward = torch.empty(2, len(ranges), self._groups, width, BLOCK)
        self._row_backward = torch.empty(2, self._n_strips, self._groups, 1, BLOCK)
        self._scratch = scratch
        self._name = name
        self._file = scratch.open_random(f"{name}.carries")

    def close(self) -> None:
        """Close the file that is open all the time."""
        os.close(self._file)

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.summarize`."""
        slot = self._range_of[strip]
        # The kernel leaves the rows of slot 0 out, which nothing is above of: any other strip has to look like another.
        place = min(strip, 1)
        row = torch.empty(2, 1 + place, self._groups, 1, BLOCK)
        column = torch.empty(2, 1 + place, self._groups, self._width, BLOCK)
        decays, states = zip(self._row_forward, self._column_forward, row, column, strict=True)
        native().summarize_strip(
            *strip_arrays(self.weights, u, proj, width=self._width),
            list(decays),
            list(states),
            slot,
            place,
            strip in self._starts,
            slot + 1 < self._row_forward.shape[1],
            "",
        )
        self._row_backward[:, strip] = row[:, place]
        self._write(column[:, place].contiguous(), self._offset(strip))

    def combine(self, *, threads: int) -> None:
        """See `cpu.StripCarries.combine`."""
        for (decay, state), backward in (
            (self._row_forward, False),
            (self._column_forward, False),
            (self._row_backward, True),
        ):
            native().combine(decay, state, backward, threads, "")
        per_column = 2 * self._n_strips * self._groups * BLOCK * 4
        step = max(8, _COMBINE_BYTES // per_column)
        entering = torch.zeros(self._groups, BLOCK)
        for last in range(self._width, 0, -step):
            entering = self._combine_columns(max(0, last - step), last, entering, threads)

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        column = torch.empty(1, self._groups, self._width, BLOCK)
        self._read(column, self._offset(strip) + column.nbytes)
        states = [
            self._row_forward[1],
            self._column_forward[1],
            self._row_backward[1, strip : strip + 1].clone(),
            column,
        ]
        arrays = strip_arrays(self.weights, u, proj, width=self._width)
        native().apply_strip(*arrays, states, self._range_of[strip], 0, y, "")

    def keep(self, borders: Tensor) -> None:
        """After `combine`: keep the states, and what else the second pass needs, for whoever goes on."""
        self._scratch.write(f"{self._name}.entering", [*self._entering(), borders])

    def take_up(self, borders: Tensor) -> bool:
        """Fill in what `keep` kept, if it did."""
        if not self._scratch.has(f"{self._name}.entering"):
            return False
        self._scratch.read(f"{self._name}.entering", [*self._entering(), borders])
        return True

    def keep_range(self, part: int, done: int, beside: Tensor) -> None:
        """Keep the states below the ``done`` strips of a range that are finished, and what they hand on."""
        counted = torch.tensor([done])
        self._scratch.write(
            f"{self._name}.range.{part}", [counted, *self._of_range(part), beside.contiguous()]
        )

    def take_up_range(self, part: int, beside: Tensor) -> int:
        """Fill in what `keep_range` kept last; gives how many strips of the range are finished."""
        if not self._scratch.has(f"{self._name}.range.{part}"):
            return 0
        counted = torch.zeros(1, dtype=torch.int64)
        self._scratch.read(f"{self._name}.range.{part}", [counted, *self._of_range(part), beside])
        return int(counted)

    def _entering(self) -> list[Tensor]:
        return [self._row_forward[1], self._column_forward[1], self._row_backward[1]]

    def _of_range(self, part: int) -> list[Tensor]:
        return [self._row_forward[1, part], self._column_forward[1, part]]

    def _combine_columns(self, first: int, last: int, entering: Tensor, threads: int) -> Tensor:
        """Combine columns [first, last), entered from the right by a state; gives the state that leaves to the left."""
        count = last - first
        decay = torch.ones(self._n_strips, self._groups, count + 2, BLOCK)
        state = torch.zeros(self._n_strips, self._groups, count + 2, BLOCK)
        # The columns run from right to left, the strips of each from the lowest to the highest.
        decay[-1, :, -1] = 0
        state[-1, :, -1] = entering
        for strip in range(self._n_strips):
            for kind, into in enumerate((decay, state)):
                self._fill_piece(into[strip, :, 1:-1], strip, kind, first, last)
        native().combine(decay, state, True, threads, "")
        for strip in range(self._n_strips):
            self._keep_piece(state[strip, :, 1:-1], strip, first, last)
        return state[-1, :, 0].clone()

    def _fill_piece(self, into: Tensor, strip: int, kind: int, first: int, last: int) -> None:
        """Read decays (0) or states (1) of columns [first, last) of a strip into (groups, last - first, 16)."""
        for group in range(self._groups):
            self._read(into[group], self._place(strip, kind, group, first))

    def _keep_piece(self, state: Tensor, strip: int, first: int, last: int) -> None:
        """Write what enters columns [first, last) of a strip."""
        for group in range(self._groups):
            self._write(state[group], self._place(strip, 1, group, first))

    def _offset(self, strip: int) -> int:
        """Where decay and state of a strip begin in the file."""
        return self._place(strip, 0, 0, 0)

    def _place(self, strip: int, kind: int, group: int, column: int) -> int:
        return (((strip * 2 + kind) * self._groups + group) * self._width + column) * BLOCK * 4

    def _write(self, tensor: Tensor, offset: int) -> None:
        left = bytes_of(tensor)
        try:
            while left:
                count = os.pwrite(self._file, left, offset)
                left, offset = left[count:], offset + count
        except OSError as error:
            raise self._scratch.failure(error) from error

    def _read(self, tensor: Tensor, offset: int) -> None:
        left = bytes_of(tensor)
        try:
            while left:
                count = os.preadv(self._file, [left], offset)
                if not count:
                    raise StoreError(
                        f"the carries in {self._scratch.folder} are shorter than they were written; remove that "
                        "folder and run again"
                    )
                left, offset = left[count:], offset + count
        except OSError as error:
            raise error if isinstance(error, StoreError) else self._scratch.failure(error) from error


def carries_bytes(*, lanes: int, width: int, strips: int) -> int:
    """Bytes on the disk of the carries of a map."""
    return 2 * 4 * lanes * width * strips
