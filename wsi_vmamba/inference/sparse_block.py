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
from torch import Tensor

from wsi_vmamba.inference.block import BlockParts, ScanInputs
from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.inference.residual import Reached
from wsi_vmamba.inference.sparse_plan import Columns, SparseStage
from wsi_vmamba.inference.steps import ScanPlaces
from wsi_vmamba.inference.workers import Workers


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


@dataclass(frozen=True)
class KeptInputs:
    """The scan inputs of each strip between the two passes.

    Attributes:
        u: (rows, tokens of tissue, d_inner) of each strip.
        proj: (rows, tokens of tissue, 4 * (R + 2 N)) float32 of each, or None to project u in both passes.
    """

    u: list[Tensor]
    proj: list[Tensor] | None


@dataclass(frozen=True, kw_only=True)
class SparseBlockRun(BlockParts):
    """One block on the tissue of a map; ``scratch`` is of `sparse_layout`.

    Attributes:
        tissue: its strips.
        map: the tissue of the residual map, which is changed.
        kept: takes the scan inputs between the passes of a map in memory; None to compute them in both.
    """

    tissue: SparseStage
    map: SparseMap
    kept: KeptInputs | None

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
        self.tissue.strips[strip].columns.put(projected[0], out)

    def _summarize_strips(self, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]) -> None:
        for i, inputs in enumerate(self._computed(part, border, scratch), start=part[0]):
            with self.profile.measure("scan pass 1"):
                self.carries.summarize(inputs.u, inputs.proj, strip=i)

    def _apply_strips(
        self, index: int, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]
    ) -> None:
        if self.kept is None:
            done, beside = self.map.begin(index)
            above = None if beside is None else beside[0]
            strips = self._computed(part, border, scratch, done=done, above=above)
        else:
            done, strips = 0, self._kept(self.kept, part, border, scratch)
        for i, inputs in enumerate(strips, start=part[0] + done):
            y = scratch["y"].view(-1)[: inputs.u.numel()].view(inputs.u.shape)
            with self.profile.measure("scan pass 2"):
                self.carries.apply(inputs.u, inputs.proj, y, strip=i)
            self.add_rest(inputs.x.flatten(0, 1), y.flatten(0, 1), scratch["norm"])
            self.map.finish(index, i, inputs.x, inputs.beside)

    def _kept(
        self, kept: KeptInputs, part: tuple[int, int], border: Tensor, scratch: dict[str, Tensor]
    ) -> Iterator[ScanInputs]:
        """What the first pass left, strip by strip; only of a map in memory, which has no use for ``beside``."""
        for i in range(*part):
            u = kept.u[i]
            proj = self.project(u, self._proj_of(i, scratch)) if kept.proj is None else kept.proj[i]
            yield ScanInputs(self.map.strip(i), border, u, proj)

    def _u_of(self, strip: int, scratch: dict[str, Tensor]) -> Tensor:
        """Where what a strip scans goes."""
        if self.kept is not None:
            return self.kept.u[strip]
        found = self.tissue.strips[strip]
        return _piece(scratch["u"], found.last - found.first, found.columns.count, self.stage.d_inner)

    def _proj_of(self, strip: int, scratch: dict[str, Tensor]) -> Tensor:
        """Where the projections of a strip go."""
        if self.kept is not None and self.kept.proj is not None:
            return self.kept.proj[strip]
        found = self.tissue.strips[strip]
        rows = found.last - found.first
        return _piece(scratch["proj"], rows, found.columns.count, self.stage.proj_width)

    def _computed(
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
            below = torch.zeros_like(border[1])
            if i + 1 < last:
                self._project_edge(i + 1, i, below, scratch, lower=False)
            else:
                below.copy_(border[1])
            window = _piece(scratch["rows"], count + 2, columns.spread_width, self.stage.d_inner)
            _fill_around(window, columns, above, below)
            x, proj = self.map.strip(i), self._proj_of(i, scratch)
            u = self._u_of(i, scratch)
            self.find_inputs(x, ScanPlaces(window, 1, u, proj, columns.spread_runs), scratch["norm"])
            above = torch.zeros_like(above)
            if i + 1 < len(self.tissue.strips) and self.tissue.strips[i + 1].first == strip.last:
                for left, right, _, wide in columns.spread_pieces:
                    above[left:right] = window[-2, wide]
            yield ScanInputs(x, above.expand_as(border), u, proj)


def _fill_around(window: Tensor, columns: Columns, above: Tensor, below: Tensor) -> None:
    """Fill what the depthwise convolution looks at beside the rows of a strip: (n + 2, spread_width, D).

    The columns beside a run are glass in the rows of its strip, but may be tissue in the rows above and below.

    Args:
        window: it.
        columns: of the strip.
        above: the row above it (width, D), of the whole map; ``below`` likewise.
        below: see there.
    """
    width = len(above)
    for first, last, _, wide in columns.spread_pieces:
        window[1:-1, wide.start - 1] = 0
        window[1:-1, wide.stop] = 0
        for row, around in ((0, above), (-1, below)):
            left, right = max(first - 1, 0), min(last + 1, width)
            start = wide.start + left - first
            window[row, start : start + right - left] = around[left:right]
            if first == 0:
                window[row, wide.start - 1] = 0
            if last == width:
                window[row, wide.stop] = 0


def _piece(scratch: Tensor, *shape: int) -> Tensor:
    """A contiguous tensor of that shape in the memory of another."""
    size = 1
    for side in shape:
        size *= side
    return scratch.view(-1)[:size].view(shape)


def sparse_layout(tissue: SparseStage) -> Layout:
    """What a worker needs for a block of a stage."""
    tokens, stage = tissue.most_tokens, tissue.dense
    return {
        "rows": ((tokens, stage.d_inner), stage.dtype),
        "u": ((0 if stage.keep_u else tokens, stage.d_inner), stage.dtype),
        "proj": ((tokens, stage.proj_width), torch.float32),
        "y": ((tokens, stage.d_inner), torch.float32),
        "norm": ((min(tokens, 4096), max(stage.d_model, stage.d_inner)), stage.dtype),
    }


def sparse_workers_bytes(stages: tuple[SparseStage, ...]) -> int:
    """Memory of all workers at the widest stage."""
    return max(stage.dense.workers * layout_bytes(sparse_layout(stage)) for stage in stages)


def at_work_bytes(tissue: SparseStage) -> int:
    """What the workers hold beside their scratch.

    States of the strip each is at, rows around it, and the strip before it is spread and after it is convolved.
    """
    stage = tissue.dense
    each = 8 * 4 * stage.scan_lanes + 8 * stage.d_inner * stage.dtype.itemsize
    strip = 2 * tissue.most_tokens * stage.d_inner * stage.dtype.itemsize
    return stage.workers * (stage.width * each + strip)
