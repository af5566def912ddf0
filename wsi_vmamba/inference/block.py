"""One VMamba block over a map, in two passes of strips, in place.

Pass one computes the scan input of every strip and what the strip does to the states passing through it; pass two,
with the states known, computes the scan itself and everything after it, and adds to the map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wsi_vmamba.inference.plan import RowRange, StagePlan
from wsi_vmamba.inference.residual import ResidualMap
from wsi_vmamba.inference.steps import Depthwise, ScanPlaces, TokenSteps
from wsi_vmamba.inference.workers import Profile, Workers


class ScanInputs(NamedTuple):
    """Some rows of the map ``x``, and as the scan takes them: u (n, width, d_inner), proj (n, width, 4 * (R + 2 N)).

    ``proj`` is float32; ``beside`` are the rows of in_proj around their lower edge, see `residual.Reached`.
    """

    x: Tensor
    beside: Tensor
    u: Tensor
    proj: Tensor


class Carries(Protocol):
    """What the strips of a map hand to each other: `cpu.StripCarries`, or the same in files."""

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.summarize`."""
        ...

    def combine(self, *, threads: int) -> None:
        """See `cpu.StripCarries.combine`."""
        ...

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int) -> None:
        """See `cpu.StripCarries.apply`."""
        ...


class BlockSteps(Protocol):
    """What a block does to rows of the map around the scan: `PackedBlock`, or the same on a GPU."""

    @property
    def steps(self) -> TokenSteps:
        """Around the scan."""
        ...

    @property
    def conv(self) -> Depthwise:
        """Between in_proj and the scan."""
        ...


class TwoPasses(Protocol):
    """A block on a map, pass by pass, for whoever keeps what is between them."""

    @property
    def stage(self) -> StagePlan:
        """Widths and dtype."""
        ...

    def project_borders(self, workers: Workers) -> Tensor:
        """See `BlockRun.project_borders`."""
        ...

    def summarize(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.summarize`."""
        ...

    def apply(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.apply`."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockParts(ABC):
    """A block on a map: what of it looks at single tokens, and its two passes, for whoever walks over the map.

    Attributes:
        block: the weights.
        stage: widths and dtype.
        carries: of the strips of the map.
        scratch: memory of each that works at the same time, by name.
        profile: takes CPU seconds.
    """

    block: BlockSteps
    stage: StagePlan
    carries: Carries
    scratch: list[dict[str, Tensor]]
    profile: Profile

    def run(self, workers: Workers) -> None:
        """Apply the block."""
        borders = self.project_borders(workers)
        self.summarize(borders, workers)
        with self.profile.measure("scan combine"):
            self.carries.combine(threads=workers.count)
        self.apply(borders, workers)

    @abstractmethod
    def project_borders(self, workers: Workers) -> Tensor:
        """See `BlockRun.project_borders`."""

    @abstractmethod
    def summarize(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.summarize`."""

    @abstractmethod
    def apply(self, borders: Tensor, workers: Workers) -> None:
        """See `BlockRun.apply`."""

    def project_in(self, x: Tensor, out: Tensor, norm: Tensor) -> None:
        """Write in_proj of the norm of rows of the map to ``out``."""
        with self.profile.measure("norm + in_proj"):
            self.block.steps.project_in(x.flatten(0, 1), out.flatten(0, 1), norm)

    def find_inputs(self, x: Tensor, places: ScanPlaces, norm: Tensor) -> None:
        """Find what the scan takes of rows of the map; see `tokens.scan_inputs`."""
        self.block.steps.scan_inputs(self.block.conv, x, places, norm, self.profile.measure)

    def project(self, u: Tensor, out: Tensor) -> Tensor:
        """Write x_proj of a strip to ``out``, float32, and return that."""
        with self.profile.measure("x_proj"):
            self.block.steps.project(u.flatten(0, 1), out.flatten(0, 1))
        return out

    def add_rest(self, x: Tensor, y: Tensor, norm: Tensor) -> None:
        """From the scan ``y`` (tokens, d_inner) to the new residual ``x`` (tokens, d_model), in place."""
        self.block.steps.add_rest(x, y, norm, self.profile.measure)


@dataclass(frozen=True, kw_only=True)
class BlockRun(BlockParts):
    """One block on one map: what all its workers share.

    ``scratch`` is of `StagePlan.worker_layout`; with ``x`` (strip_rows + 1, width, d_model) where the map has to be
    read into memory.

    Attributes:
        map: the residual map (height, width, d_model), which is changed.
        kept_u: (height, width, d_inner), or None to compute the scan input in both passes.
        kept_proj: (height, width, 4 * (R + 2 N)) float32, or None likewise.
    """

    map: ResidualMap
    kept_u: Tensor | None
    kept_proj: Tensor | None

    def project_borders(self, workers: Workers) -> Tensor:
        """in_proj of the row above and of the row below each range, for both passes: the second changes the map."""
        shape = len(self.stage.ranges), 2, self.stage.width, self.stage.d_inner
        borders = self.scratch[0]["rows"].new_zeros(shape)
        parts = zip(self.stage.ranges, borders, strict=True)
        workers.share([partial(self._project_beside, *pair) for pair in parts], self.scratch)
        return borders

    def summarize(self, borders: Tensor, workers: Workers) -> None:
        """Pass one: what each strip does to the states that pass through it."""
        jobs = [
            partial(self._summarize, part, strip, borders[i])
            for i, (part, strip) in enumerate(self._parts_and_strips())
        ]
        workers.share(jobs, self.scratch)

    def apply(self, borders: Tensor, workers: Workers) -> None:
        """Pass two, with the states known: the scan, all that follows it, and the new map."""
        jobs = [
            partial(self._apply, i, part, strip, borders[i])
            for i, (part, strip) in enumerate(self._parts_and_strips())
        ]
        workers.share(jobs, self.scratch)

    def _parts_and_strips(self) -> Iterator[tuple[RowRange, int]]:
        """Each range, and the number of its first strip."""
        strip = 0
        for part in self.stage.ranges:
            yield part, strip
            strip += len(part.strips)

    def _project_beside(self, part: RowRange, border: Tensor, scratch: dict[str, Tensor]) -> None:
        """Fill ``border`` (2, width, d_inner); rows outside the map stay zeros, as they are after in_proj."""
        rows = [row for row in (part.first - 1, part.last) if 0 <= row < self.stage.height]
        if rows:
            start = 0 if part.first > 0 else 1
            x = torch.cat([self.map.rows(row, row + 1, None) for row in rows])
            self.project_in(x, border[start : start + len(rows)], scratch["norm"])

    def _summarize(self, part: RowRange, strip: int, border: Tensor, scratch: dict[str, Tensor]) -> None:
        for i, inputs in enumerate(self._computed(part, border, scratch)):
            with self.profile.measure("scan pass 1"):
                self.carries.summarize(inputs.u, inputs.proj, strip=strip + i)

    def _apply(
        self, index: int, part: RowRange, strip: int, border: Tensor, scratch: dict[str, Tensor]
    ) -> None:
        if self.kept_u is None:
            done, beside = self.map.begin(index)
            strips = self._computed(part, border, scratch, done=done, beside=beside)
        else:
            done, strips = 0, self._kept(part, border, scratch)
        for i, inputs in enumerate(strips, start=strip + done):
            y = scratch["y"][: len(inputs.u)]
            with self.profile.measure("scan pass 2"):
                self.carries.apply(inputs.u, inputs.proj, y, strip=i)
            self.add_rest(inputs.x.flatten(0, 1), y.flatten(0, 1), scratch["norm"])
            self.map.finish(index, i, inputs.x, inputs.beside)

    def _kept(self, part: RowRange, border: Tensor, scratch: dict[str, Tensor]) -> Iterator[ScanInputs]:
        """What the first pass left, strip by strip; only of a map in memory, which has no use for ``beside``."""
        assert self.kept_u is not None
        for first, last in part.strips:
            x, u = self.map.rows(first, last, None), self.kept_u[first:last]
            if self.kept_proj is None:
                proj = self.project(u, scratch["proj"][: last - first])
            else:
                proj = self.kept_proj[first:last]
            yield ScanInputs(x, border, u, proj)

    def _computed(
        self,
        part: RowRange,
        border: Tensor,
        scratch: dict[str, Tensor],
        *,
        done: int = 0,
        beside: Tensor | None = None,
    ) -> Iterator[ScanInputs]:
        """Compute u, the SiLU of the depthwise convolution of in_proj, and its projections, strip by strip.

        The two lowest projected rows of a strip are handed to the next, so each row is projected once, and
        before pass two changes it. With ``done`` strips finished before, ``beside`` is what the last of them handed on.
        """
        rows, norm = scratch["rows"], scratch["norm"]
        handed = beside
        for first, last in part.strips[done:]:
            count = last - first
            if handed is not None:
                rows[:2].copy_(handed.clone())  # the two may overlap
            else:
                rows[:1].copy_(border[:1])
            start = first + 1 if handed is not None else first
            inside = min(last + 1, part.last)
            offset = start - first + 1
            x = self.map.rows(first, inside, scratch.get("x"))
            if last == part.last:
                rows[count + 1 : count + 2].copy_(border[1:])
            u = scratch["u"][:count] if self.kept_u is None else self.kept_u[first:last]
            proj = scratch["proj"][:count] if self.kept_proj is None else self.kept_proj[first:last]
            self.find_inputs(x[start - first :], ScanPlaces(rows[: count + 2], offset, u, proj), norm)
            handed = rows[count : count + 2]
            yield ScanInputs(x[:count], handed, u, proj)
