"""One VMamba block over the tissue of a map: tokens outside it have step size zero and are neither kept nor computed.

A state crosses such a token unchanged, so the scan runs over the tissue side by side; the depthwise convolution sees
zeros there. What a row of another row of patches shares with this one is looked up in the whole width of the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.inference.block import BlockParts, ScanInputs
from wsi_vmamba.inference.carries import CarriesInFiles
from wsi_vmamba.inference.residual import Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.sparse_plan import SparseStage
from wsi_vmamba.inference.workers import Workers
from wsi_vmamba.ops.cpu_module import native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights
from wsi_vmamba.ops.strips import strip_arrays


class SparseMap(Protocol):
    """The tissue of the map that a block changes, strip by strip; see `residual.ResidualMap`."""

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """Rows of a strip, counted from its first: (n, tokens of tissue, d_model), the caller's own."""
        ...

    def begin(self, part: int) -> Reached:
        """See `ResidualMap.begin`."""
        ...

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `ResidualMap.finish`."""
        ...


@dataclass(frozen=True, kw_only=True)
class SparseBlockRun(BlockParts):
    """One block on the tissue of a map; ``scratch`` is of `sparse_forward.sparse_layout`.

    Attributes:
        tissue: its strips.
        map: the tissue of the residual map, which is changed.
    """

    tissue: SparseStage
    map: SparseMap

    def project_borders(self, workers: Workers) -> Tensor:
        """in_proj of the rows above and below each range, over the whole width, zeros where there is no tissue."""
        ranges = self.tissue.ranges
        borders = torch.zeros(len(ranges), 2, self.stage.width, self.stage.d_inner, dtype=self.stage.dtype)
        jobs = [partial(self._project_around, *pair) for pair in zip(ranges, borders, strict=True)]
        workers.share(jobs, self.scratch)
        return borders

    def summarize(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.summarize`."""
        ranges = zip(self.tissue.ranges, borders, strict=True)
        workers.share([partial(self._summarize_strips, *pair) for pair in ranges], self.scratch)

    def apply(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.apply`."""
        ranges = enumerate(zip(self.tissue.ranges, borders, strict=True))
        workers.share([partial(self._apply_strips, i, *pair) for i, pair in ranges], self.scratch)

    def _project_around(self, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]) -> None:
        first, last = part
        if first > 0:
            self._project_edge(first - 1, first, border[0], scratch, lower=True)
        if last < len(self.tissue.strips):
            self._project_edge(last, last - 1, border[1], scratch, lower=False)

    def _project_edge(
        self, strip: int, beside: int, out: Tensor, scratch: dict[str, Tensor], *, lower: bool
    ) -> None:
        """Write in_proj of the last or first row of a strip to its places in ``out`` (width, d_inner).

        Nothing where the strip ``beside`` is not next to it: what lies between is glass.
        """
        upper = self.tissue.strips[strip if lower else beside]
        under = self.tissue.strips[beside if lower else strip]
        if upper.last != under.first:
            return
        rows = slice(-1, None) if lower else slice(0, 1)
        x = self.map.strip(strip, rows=rows)
        projected = x.new_empty(1, x.shape[1], self.stage.d_inner)
        self.project_in(x, projected, scratch["norm"])
        out[self.tissue.strips[strip].columns.places] = projected[0]

    def _summarize_strips(self, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]) -> None:
        for i, inputs in enumerate(self._inputs(part, border, scratch), start=part[0]):
            with self.profile.measure("scan pass 1"):
                self.carries.summarize(inputs.u, inputs.proj, strip=i)

    def _apply_strips(
        self, index: int, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]
    ) -> None:
        done, beside = self.map.begin(index)
        strips = self._inputs(part, border, scratch, done=done, above=None if beside is None else beside[0])
        for i, inputs in enumerate(strips, start=part[0] + done):
            y = scratch["y"].view(-1)[: inputs.u.numel()].view(inputs.u.shape)
            with self.profile.measure("scan pass 2"):
                self.carries.apply(inputs.u, inputs.proj, y, strip=i)
            self.add_rest(inputs.x.flatten(0, 1), y.flatten(0, 1), scratch["norm"])
            self.map.finish(index, i, inputs.x, inputs.beside)

    def _inputs(
        self,
        part: tuple[int, int],
        border: Tensor,
        scratch: dict[str, Tensor],
        *,
        done: int = 0,
        above: Tensor | None = None,
    ) -> Iterator[ScanInputs]:
        """See `BlockRun._computed`; ``beside`` is the last row projected, over the whole width, twice."""
        first, last = part
        above = border[0] if above is None else above
        for i in range(first + done, last):
            strip = self.tissue.strips[i]
            count, columns = strip.last - strip.first, strip.columns
            x = self.map.strip(i)
            own = _piece(scratch["own"], count, columns.count, self.stage.d_inner)
            self.project_in(x, own, scratch["norm"])
            below = torch.zeros_like(border[1])
            if i + 1 < last:
                self._project_edge(i + 1, i, below, scratch, lower=False)
            else:
                below.copy_(border[1])
            window = _piece(scratch["rows"], count + 2, columns.spread_width, self.stage.d_inner)
            window.zero_()
            window[0] = F.pad(above, (0, 0, 1, 1))[columns.around]
            window[1:-1, columns.spread] = own
            window[-1] = F.pad(below, (0, 0, 1, 1))[columns.around]
            spread = _piece(scratch["u"], count, columns.spread_width, self.stage.d_inner)
            with self.profile.measure("dwconv + SiLU"):
                self.block.depthwise_silu(window, out=spread)
            edge = torch.zeros_like(border)
            edge[:, columns.places] = own[-1]
            u = own
            torch.index_select(spread, 1, columns.spread, out=u)
            proj = _piece(scratch["proj"], count, columns.count, self.stage.proj_width)
            adjacent = i + 1 < len(self.tissue.strips) and self.tissue.strips[i + 1].first == strip.last
            above = edge[0] if adjacent else torch.zeros_like(edge[0])
            yield ScanInputs(x, torch.stack([above, above]), u, self.project(u, proj))


class SparseCarries(CarriesInFiles):
    """Carries of strips that each have columns of their own; a column that a strip lacks crosses it unchanged."""

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
        slot, places = self._range_of[strip], self._columns[strip].places
        if strip in self._starts:
            self._column_forward[0, slot] = 1
            self._column_forward[1, slot] = 0
        forward = self._column_forward[:, slot][:, :, places].unsqueeze(1)
        place = min(strip, 1)
        row = torch.empty(2, 1 + place, self._groups, 1, BLOCK)
        column = torch.empty(2, 1 + place, self._groups, len(places), BLOCK)
        rows = self._row_forward[:, slot : slot + 1]
        native().summarize_strip(
            *strip_arrays(self.weights, u, proj, width=len(places)),
            [rows[0], forward[0], row[0], column[0]],
            [rows[1], forward[1], row[1], column[1]],
            0,
            place,
            strip in self._starts,
            slot + 1 < self._row_forward.shape[1],
            "",
        )
        self._column_forward[:, slot, :, places] = forward[:, 0]
        self._row_backward[:, strip] = row[:, place]
        self._write(column[:, place].contiguous(), self._offsets[strip])

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        slot, places = self._range_of[strip], self._columns[strip].places
        column = torch.empty(1, self._groups, len(places), BLOCK)
        self._read(column, self._offsets[strip] + column.nbytes)
        forward = self._column_forward[1, slot][:, places].unsqueeze(0)
        states = [
            self._row_forward[1, slot : slot + 1],
            forward,
            self._row_backward[1, strip : strip + 1].clone(),
            column,
        ]
        arrays = strip_arrays(self.weights, u, proj, width=len(places))
        native().apply_strip(*arrays, states, 0, 0, y, "")
        self._column_forward[1, slot][:, places] = forward[0]

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


def _piece(scratch: Tensor, *shape: int) -> Tensor:
    """A contiguous tensor of that shape in the memory of another."""
    size = 1
    for side in shape:
        size *= side
    return scratch.view(-1)[:size].view(shape)
