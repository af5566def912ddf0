"""A region of any size in one pass of the strip encoder, its map in files: what fits on the disk fits in memory.

The pass is a sequence of steps: stem, blocks, downsampling. Each makes map number i of map number i - 1, strip by
strip, with the operators of the encoder that holds its map in memory, in the same strips and with the same bytes.
Strips of the old map are removed as those of the new one are there; what a step needs to go on in the middle is in
files too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.block import BlockRun, TwoPasses
from wsi_vmamba.inference.carries import CarriesInFiles, carries_bytes
from wsi_vmamba.inference.convolve import Rows, downsampled_rows, stem_rows, stem_sources
from wsi_vmamba.inference.memory import Layout, carve, layout_bytes
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import EncodePlan, StagePlan, conv_bytes, conv_groups
from wsi_vmamba.inference.residual import MapInFiles, Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.workers import Profile, Workers

_STEP = "step.json"
#: Pieces of columns while carries are combined, and what libraries take.
OTHER_BYTES = 256 << 20


class PixelRows(Rows, Protocol):
    """The pixels of a region, uint8 RGB (height, width, 3), asked for from top to bottom."""

    def advance(self, first: int, last: int) -> None:
        """Have rows [first, last) at hand, as far as they are in the picture; those above may be let go."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the map it makes belongs to stage ``stage``; ``block`` is None where it comes from another stage."""

    stage: int
    block: int | None
    cost: float

    @property
    def kind(self) -> str:
        """Its name for people."""
        if self.block is not None:
            return f"stage {self.stage + 1} block {self.block + 1}"
        return f"downsampling to stage {self.stage + 1}" if self.stage else "stem"


class ScratchForward:
    """One region on its way through the encoder."""

    def __init__(
        self,
        packed: PackedVMamba,
        plan: EncodePlan,
        scratch: Scratch,
        *,
        memory: Tensor,
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """Prepare.

        Args:
            packed: the weights.
            plan: of the region, as for a map in memory.
            scratch: where the maps lie.
            memory: at least `workers_bytes` of the plan.
            profile: takes CPU seconds.
            report: takes the share of the work that is done, 0 to 1.
        """
        self._packed = packed
        self._stages = plan.stages
        self._scratch = scratch
        self._memory = memory
        self._profile = profile
        self._report = report
        self._lock = Lock()
        self.steps = list(_steps(packed, plan))
        self._total = sum(step.cost for step in self.steps)
        self._done = 0.0

    def run(self, pixels: PixelRows, workers: Workers) -> None:
        """Make the last map, from where an earlier process left off."""
        begin = self._scratch.read_json(_STEP) or 0
        self._done = sum(step.cost for step in self.steps[:begin])
        # A step that was through may have left something of its own.
        self._keep_only({f"{begin - 1}.map", f"{begin}"})
        self._report(self._done / self._total)
        for number in range(begin, len(self.steps)):
            step = self.steps[number]
            if step.block is not None:
                self._block(number, step, workers)
            elif step.stage == 0:
                self._stem(number, pixels, workers)
            else:
                self._downsample(number, step, workers)
            self._scratch.write_json(_STEP, number + 1)
            self._keep_only({f"{number}.map"})

    def _keep_only(self, starts: set[str]) -> None:
        """Remove files whose name does not begin with one of these words and a full stop; plain values stay."""
        self._scratch.drop_all(
            lambda name: name.endswith(".json") or any(name.startswith(f"{start}.") for start in starts)
        )

    def feature_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows [first, last) of the features, (n, width, dim), after `run`."""
        x = self._map(len(self.steps) - 1).rows(first, last, None)
        features: NDArray[np.float32] = self._packed.norm(
            x, x.new_empty(x.shape, dtype=torch.float32)
        ).numpy()
        return features

    def _map(self, number: int) -> MapInFiles:
        """The map that a step makes."""
        return MapInFiles(self._scratch, f"{number}.map", self._stages[self.steps[number].stage])

    # ---- steps that go from top to bottom ------------------------------------------------------------------

    def _stem(self, number: int, pixels: PixelRows, workers: Workers) -> None:
        stem = self._packed.stem
        whole = self._map(number)

        def prepare(first: int, last: int) -> None:
            pixels.advance(*stem_sources(stem, first, last))

        self._pour(
            number, whole, lambda *rows: stem_rows(pixels, stem, *rows), "stem", workers, prepare=prepare
        )

    def _downsample(self, number: int, step: Step, workers: Workers) -> None:
        source = self._map(number - 1)
        layer = self._packed.downsamples[step.stage - 1]
        rows = _RowsOfMap(source)

        def clear(next_row: int) -> None:
            unread = 2 * next_row - 1
            source.drop([i for i, (_, last) in enumerate(source.strips) if last <= unread])

        self._pour(
            number,
            self._map(number),
            lambda *wanted: downsampled_rows(rows, layer, *wanted),
            "downsample",
            workers,
            clear=clear,
        )

    def _pour(
        self,
        number: int,
        into: MapInFiles,
        make: Callable[[int, int], Tensor],
        operator: str,
        workers: Workers,
        *,
        prepare: Callable[[int, int], None] = lambda first, last: None,
        clear: Callable[[int], None] = lambda row: None,
    ) -> None:
        """Make the rows of a map in the groups that a map in memory is made in, and cut them into its strips."""
        groups = conv_groups(into.stage)
        strip = into.n_written()
        held = torch.empty(
            into.stage.strip_rows, into.stage.width, into.stage.d_model, dtype=into.stage.dtype
        )
        row = into.strips[strip][0] if strip < len(into.strips) else into.stage.height
        self._count(number, row / into.stage.height)
        results: dict[int, Tensor] = {}

        def rows(first: int, last: int) -> None:
            with self._profile.measure(operator):
                results[first] = make(first, last)

        for group in groups:
            if group[-1][1] <= row:
                continue
            prepare(group[0][0], group[-1][1])
            workers.run([partial(rows, *each) for each in group])
            for first, _ in group:
                made = results.pop(first)
                made = made[max(0, row - first) :]
                while len(made):
                    start, stop = into.strips[strip]
                    count = min(len(made), stop - row)
                    held[row - start : row - start + count] = made[:count]
                    made, row = made[count:], row + count
                    if row == stop:
                        into.write(strip, held[: stop - start])
                        strip += 1
                        self._count(number, (stop - start) / into.stage.height)
                        clear(group[0][0])

    # ---- blocks --------------------------------------------------------------------------------------------

    def _block(self, number: int, step: Step, workers: Workers) -> None:
        assert step.block is not None
        stage = self._stages[step.stage]
        block = self._packed.stages[step.stage][step.block]
        first_pass = self._first_pass_share(stage)
        with closing(
            CarriesInFiles(
                block.scan,
                width=stage.width,
                ranges=[len(part.strips) for part in stage.ranges],
                scratch=self._scratch,
                name=f"{number}",
            )
        ) as carries:
            changed = _ChangingMap(
                self._map(number - 1),
                self._map(number),
                carries,
                partial(self._count_rows, number, stage, 1 - first_pass),
            )
            run = BlockRun(
                block=block,
                stage=stage,
                map=changed,
                carries=Counted(
                    carries,
                    lambda tokens: self._count_rows(number, stage, first_pass, tokens // stage.width),
                ),
                kept_u=None,
                kept_proj=None,
                scratch=self._hands(stage, _worker_layout(stage)),
                profile=self._profile,
            )
            self._two_passes(number, run, carries, len(stage.ranges), first_pass, workers)

    def _two_passes(
        self,
        number: int,
        run: TwoPasses,
        carries: CarriesInFiles,
        n_ranges: int,
        first_pass: float,
        workers: Workers,
    ) -> None:
        """Run a block from where it is: before what enters each strip is known, or after."""
        stage = run.stage
        borders = torch.empty(n_ranges, 2, stage.width, stage.d_inner, dtype=stage.dtype)
        if carries.take_up(borders):
            self._count(number, first_pass)
        else:
            borders = run.project_borders(workers)
            run.summarize(borders, workers)
            with self._profile.measure("scan combine"):
                carries.combine(threads=workers.count)
            carries.keep(borders)
        run.apply(borders, workers)

    def _hands(self, stage: StagePlan, layout: Layout) -> list[dict[str, Tensor]]:
        """Scratch of each worker of a stage."""
        each = layout_bytes(layout)
        return [carve(self._memory[i * each : (i + 1) * each], layout) for i in range(stage.workers)]

    @staticmethod
    def _first_pass_share(stage: StagePlan) -> float:
        first, second = _costs(stage)
        return first / (first + second)

    def _count(self, number: int, share: float) -> None:
        """Note that so much more of a step is done."""
        with self._lock:
            self._done += share * self.steps[number].cost
            self._report(min(1.0, self._done / self._total))

    def _count_rows(self, number: int, stage: StagePlan, share: float, rows: int) -> None:
        self._count(number, share * rows / stage.height)


class _RowsOfMap:
    """Rows of a map in files, for the convolutions."""

    def __init__(self, source: MapInFiles) -> None:
        self._source = source
        self.height, self.width = source.stage.height, source.stage.width

    def rows(self, first: int, last: int) -> Tensor:
        """See `Rows.rows`."""
        return self._source.rows(first, last, None)


class _ChangingMap:
    """The map of a block: old strips are read and removed, new ones written; see `residual.ResidualMap`."""

    def __init__(
        self, old: MapInFiles, new: MapInFiles, carries: CarriesInFiles, count: Callable[[int], None]
    ) -> None:
        self._old = old
        self._new = new
        self._carries = carries
        self._count = count
        self._first_strip = [0]
        for part in old.stage.ranges:
            self._first_strip.append(self._first_strip[-1] + len(part.strips))

    def rows(self, first: int, last: int, buffer: Tensor | None) -> Tensor:
        """See `ResidualMap.rows`."""
        return self._old.rows(first, last, buffer)

    def begin(self, part: int) -> Reached:
        """See `ResidualMap.begin`."""
        stage = self._old.stage
        beside = torch.empty(2, stage.width, stage.d_inner, dtype=stage.dtype)
        done = self._carries.take_up_range(part, beside)
        for first, last in stage.ranges[part].strips[:done]:
            self._count(last - first)
        return Reached(done, beside if done else None)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `ResidualMap.finish`: only when all that the next strip needs is kept may the old one go."""
        self._new.write(strip, rows)
        self._carries.keep_range(part, strip + 1 - self._first_strip[part], beside)
        self._old.drop([strip])
        self._count(len(rows))


class Counted:
    """Carries that tell how many tokens they have summarized."""

    def __init__(self, carries: CarriesInFiles, count: Callable[[int], None]) -> None:
        self._count = count
        self._summarize = carries.summarize
        self.combine = carries.combine
        self.apply = carries.apply

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `Carries.summarize`."""
        self._summarize(u, proj, strip=strip)
        self._count(u.shape[0] * u.shape[1])


def _steps(packed: PackedVMamba, plan: EncodePlan) -> Iterator[Step]:
    for i, stage in enumerate(plan.stages):
        tokens = stage.height * stage.width
        yield Step(stage=i, block=None, cost=tokens * 9.0 * stage.d_model * stage.d_model)
        first, second = _costs(stage)
        for j in range(len(packed.stages[i])):
            yield Step(stage=i, block=j, cost=tokens * (first + second))


def _costs(stage: StagePlan) -> tuple[float, float]:
    """Rough cost of a token in each pass of a block, in multiplications; one of the scan counts like a hundred."""
    inputs = stage.d_inner * (stage.d_model + stage.proj_width + 9)
    return (
        inputs + 60.0 * stage.d_inner,
        inputs + 120.0 * stage.d_inner + stage.d_model * (stage.d_inner + 2.0 * stage.hidden),
    )


def _worker_layout(stage: StagePlan) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a worker needs: as for a map in memory, and the rows it has read."""
    rows = {"x": ((stage.strip_rows + 1, stage.width, stage.d_model), stage.dtype)}
    return {**stage.worker_layout, **rows}


def workers_bytes(plan: EncodePlan) -> int:
    """Memory of all workers at the widest stage."""
    return max(stage.workers * layout_bytes(_worker_layout(stage)) for stage in plan.stages)


def memory_bytes(plan: EncodePlan) -> int:
    """Memory of a pass, all that grows with the width of the region; the pixels not counted."""
    each = []
    for stage in plan.stages:
        strips = sum(len(part.strips) for part in stage.ranges)
        states = 2 * 4 * stage.scan_lanes * ((stage.width + 1) * len(stage.ranges) + strips)
        # What the kernel reads and writes of the states of the strip that each worker is at.
        at_work = stage.workers * 4 * 4 * stage.scan_lanes * stage.width
        held = stage.strip_rows * stage.width * stage.d_model * stage.dtype.itemsize
        each.append(
            states + at_work + stage.border_bytes + max(stage.transient_bytes, conv_bytes(stage) + held)
        )
    return workers_bytes(plan) + max(each) + OTHER_BYTES


def disk_bytes(plan: EncodePlan) -> int:
    """Most bytes that the files of a pass take at one time."""
    each = []
    for i, stage in enumerate(plan.stages):
        strips = sum(len(part.strips) for part in stage.ranges)
        size = _map_bytes(stage)
        strip = stage.strip_rows * stage.width * stage.d_model * stage.dtype.itemsize
        carried = carries_bytes(lanes=stage.scan_lanes, width=stage.width, strips=strips)
        states = 4 * stage.scan_lanes * ((stage.width + 1) * 2 * len(stage.ranges) + strips)
        each.append(size + carried + states + 2 * stage.border_bytes + (stage.workers + 1) * strip)
        if i:
            before = plan.stages[i - 1]
            # As rows are made, those that they are made of go.
            each.append(
                max(_map_bytes(before), size) + 4 * strip + 2 * before.strip_rows * _row_bytes(before)
            )
    return max(each)


def _map_bytes(stage: StagePlan) -> int:
    return stage.height * _row_bytes(stage)


def _row_bytes(stage: StagePlan) -> int:
    return stage.width * stage.d_model * stage.dtype.itemsize
