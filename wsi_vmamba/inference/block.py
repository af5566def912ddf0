"""One VMamba block over a map, in two passes of strips, in place.

Pass one computes the scan input of every strip and what the strip does to the states passing through it; pass two,
with the states known, computes the scan itself and everything after it, and adds to the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from wsi_vmamba.inference.packed import PackedBlock
from wsi_vmamba.inference.plan import RowRange, StagePlan, chunks
from wsi_vmamba.inference.workers import Profile, Workers
from wsi_vmamba.ops import cpu


class ScanInputs(NamedTuple):
    """Rows [first, last) as the scan takes them: u (n, width, d_inner), proj (n, width, 4 * (R + 2 N)) float32."""

    first: int
    last: int
    u: Tensor
    proj: Tensor


@dataclass(frozen=True, kw_only=True)
class BlockRun:
    """One block on one map: what all its workers share.

    Attributes:
        x: the residual map (height, width, d_model), changed in place.
        kept_u: (height, width, d_inner), or None to compute the scan input in both passes.
        kept_proj: (height, width, 4 * (R + 2 N)) float32, or None likewise.
        scratch: one dictionary of `StagePlan.worker_layout` for each that works at the same time.
    """

    block: PackedBlock
    stage: StagePlan
    x: Tensor
    kept_u: Tensor | None
    kept_proj: Tensor | None
    scratch: list[dict[str, Tensor]]
    profile: Profile

    def run(self, workers: Workers) -> None:
        """Apply the block."""
        ranges = self.stage.ranges
        strips = [len(part.strips) for part in ranges]
        carries = cpu.StripCarries(self.block.scan, width=self.stage.width, ranges=strips)
        first_strip = [sum(strips[:i]) for i in range(len(strips))]
        # in_proj of the row above and of the row below each range, for both passes: the second changes the map.
        borders = [self.x.new_zeros(2, self.stage.width, self.stage.d_inner) for _ in ranges]
        beside = [partial(self._project_beside, *pair) for pair in zip(ranges, borders, strict=True)]
        workers.share(beside, self.scratch)
        plans = list(zip(ranges, first_strip, borders, strict=True))
        workers.share([partial(self._summarize, carries, *plan) for plan in plans], self.scratch)
        with self.profile.measure("scan combine"):
            carries.combine(threads=workers.count)
        workers.share([partial(self._apply, carries, *plan) for plan in plans], self.scratch)

    def _project_beside(self, part: RowRange, border: Tensor, scratch: dict[str, Tensor]) -> None:
        """Fill ``border`` (2, width, d_inner); rows outside the map stay zeros, as they are after in_proj."""
        rows = [row for row in (part.first - 1, part.last) if 0 <= row < self.stage.height]
        if rows:
            start = 0 if part.first > 0 else 1
            self._project_in(self.x[rows], border[start : start + len(rows)], scratch["norm"])

    def _summarize(
        self,
        carries: cpu.StripCarries,
        part: RowRange,
        strip: int,
        border: Tensor,
        scratch: dict[str, Tensor],
    ) -> None:
        for i, inputs in enumerate(self._computed(part, border, scratch)):
            with self.profile.measure("scan pass 1"):
                carries.summarize(inputs.u, inputs.proj, strip=strip + i)

    def _apply(
        self,
        carries: cpu.StripCarries,
        part: RowRange,
        strip: int,
        border: Tensor,
        scratch: dict[str, Tensor],
    ) -> None:
        strips = self._computed(part, border, scratch) if self.kept_u is None else self._kept(part, scratch)
        for i, inputs in enumerate(strips):
            y = scratch["y"][: len(inputs.u)]
            with self.profile.measure("scan pass 2"):
                carries.apply(inputs.u, inputs.proj, y, strip=strip + i)
            self._finish(self.x[inputs.first : inputs.last].flatten(0, 1), y.flatten(0, 1), scratch["norm"])

    def _kept(self, part: RowRange, scratch: dict[str, Tensor]) -> Iterator[ScanInputs]:
        """What the first pass left, strip by strip."""
        assert self.kept_u is not None
        for first, last in part.strips:
            u = self.kept_u[first:last]
            if self.kept_proj is None:
                yield ScanInputs(first, last, u, self._project(u, scratch["proj"][: last - first]))
            else:
                yield ScanInputs(first, last, u, self.kept_proj[first:last])

    def _computed(self, part: RowRange, border: Tensor, scratch: dict[str, Tensor]) -> Iterator[ScanInputs]:
        """Compute u, the SiLU of the depthwise convolution of in_proj, and its projections, strip by strip.

        The two lowest projected rows of a strip are handed to the next, so each row is projected once, and
        before pass two changes it.
        """
        rows, norm = scratch["rows"], scratch["norm"]
        ready = 0  # rows of the window that the strip before left
        for first, last in part.strips:
            count = last - first
            if ready:
                rows[:2].copy_(rows[ready - 2 : ready].clone())
            else:
                rows[:1].copy_(border[:1])
            start = first + 1 if ready else first
            inside = min(last + 1, part.last)
            offset = start - first + 1
            self._project_in(self.x[start:inside], rows[offset : offset + inside - start], norm)
            if last == part.last:
                rows[count + 1 : count + 2].copy_(border[1:])
            ready = count + 2
            u = scratch["u"][:count] if self.kept_u is None else self.kept_u[first:last]
            with self.profile.measure("dwconv + SiLU"):
                cpu.depthwise_silu(rows[:ready], self.block.conv_weight, self.block.conv_bias, out=u)
            proj = scratch["proj"][:count] if self.kept_proj is None else self.kept_proj[first:last]
            yield ScanInputs(first, last, u, self._project(u, proj))

    def _project_in(self, x: Tensor, out: Tensor, norm: Tensor) -> None:
        """Write in_proj of the norm of rows of the map to ``out``."""
        with self.profile.measure("norm + in_proj"):
            flat, target = x.flatten(0, 1), out.flatten(0, 1)
            for chunk in chunks(len(flat)):
                normed = self.block.norm(flat[chunk], _fit(norm, flat[chunk]))
                target[chunk] = self.block.in_proj(normed)

    def _project(self, u: Tensor, out: Tensor) -> Tensor:
        """Write x_proj of a strip to ``out``, float32, and return that."""
        with self.profile.measure("x_proj"):
            flat, target = u.flatten(0, 1), out.flatten(0, 1)
            for chunk in chunks(len(flat)):
                target[chunk] = self.block.x_proj(flat[chunk])
        return out

    def _finish(self, x: Tensor, y: Tensor, norm: Tensor) -> None:
        """From the scan ``y`` (tokens, d_inner) to the new residual ``x`` (tokens, d_model), in place."""
        for chunk in chunks(len(x)):
            here, scanned = x[chunk], y[chunk]
            with self.profile.measure("norm + out_proj"):
                gate = self._gate(here, norm)
                here.add_(self.block.out_proj(self.block.out_norm(scanned, _fit(norm, scanned), gate=gate)))
            if self.block.norm2 is not None and self.block.fc1 is not None and self.block.fc2 is not None:
                with self.profile.measure("norm + MLP"):
                    here.add_(self.block.fc2(self.block.fc1(self.block.norm2(here, _fit(norm, here)))))

    def _gate(self, x: Tensor, norm: Tensor) -> Tensor | None:
        """SiLU of the z half of in_proj, float32 as the scan is; None without a gate."""
        if self.block.gate is None:
            return None
        return cpu.silu_(self.block.gate(self.block.norm(x, _fit(norm, x))).float())


def _fit(scratch: Tensor, like: Tensor) -> Tensor:
    """A contiguous (tokens, D) piece of scratch of the size of ``like``."""
    return scratch.view(-1)[: like.numel()].view(like.shape)
