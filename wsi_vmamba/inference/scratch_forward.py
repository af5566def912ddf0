"""A region of any size in one pass of the strip encoder, its map in files: what fits on the disk fits in memory.

Its strips are those of the encoder that holds its map in memory, computed by the same operators, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.block import BlockRun, TwoPasses
from wsi_vmamba.inference.carries import CarriesInFiles, carries_bytes
from wsi_vmamba.inference.convolve import downsampled_rows, stem_rows, stem_sources
from wsi_vmamba.inference.forward_in_files import (
    Counted,
    ForwardInFiles,
    PixelRows,
    RowsOfMap,
    Step,
    clear_above,
)
from wsi_vmamba.inference.memory import Layout, carve, layout_bytes
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import EncodePlan, StagePlan, conv_bytes
from wsi_vmamba.inference.residual import MapInFiles, Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.workers import Profile, Workers

#: Pieces of columns while carries are combined, and what libraries take.
OTHER_BYTES = 256 << 20


class ScratchForward(ForwardInFiles):
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
        depths = [len(blocks) for blocks in packed.stages]
        super().__init__(plan, scratch, depths=depths, profile=profile, report=report)
        self._packed = packed
        self._memory = memory

    def feature_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows [first, last) of the features, (n, width, dim), after `run`."""
        x = self._map(len(self.steps) - 1).rows(first, last, None)
        features: NDArray[np.float32] = self._packed.norm(
            x, x.new_empty(x.shape, dtype=torch.float32)
        ).numpy()
        return features

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
        rows = RowsOfMap(source)
        self._pour(
            number,
            self._map(number),
            lambda *wanted: downsampled_rows(rows, layer, *wanted),
            "downsample",
            workers,
            clear=clear_above(source),
        )

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
