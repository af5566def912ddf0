"""The tissue of a region through the encoder, glass left out: see `scratch_forward`, of which this has the steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.carries import carries_bytes
from wsi_vmamba.inference.convolve import stem_sources
from wsi_vmamba.inference.forward_in_files import Counted, PixelRows, Step
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import EncodePlan, StagePlan
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch_forward import OTHER_BYTES, ScratchForward
from wsi_vmamba.inference.sparse_block import (
    SparseBlockRun,
    at_work_bytes,
    sparse_layout,
    sparse_workers_bytes,
)
from wsi_vmamba.inference.sparse_carries import SparseCarriesInFiles
from wsi_vmamba.inference.sparse_convolve import (
    MakeRows,
    downsample_tissue,
    fill_strip,
    pooled_tissue,
    stem_tissue,
)
from wsi_vmamba.inference.sparse_maps import ChangingTissue, SparseMapInFiles
from wsi_vmamba.inference.sparse_plan import SparseStage
from wsi_vmamba.inference.workers import Profile, Workers


class SparseForward(ScratchForward):
    """One region on its way through the encoder, of which only some patches are tissue."""

    def __init__(
        self,
        packed: PackedVMamba,
        plan: EncodePlan,
        scratch: Scratch,
        *,
        tissue: tuple[SparseStage, ...],
        memory: Tensor,
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """See `ScratchForward`; ``tissue`` is that of each stage of the plan."""
        super().__init__(packed, plan, scratch, memory=memory, profile=profile, report=report)
        self._tissue = tissue

    def pooled(self) -> NDArray[np.float32]:
        """The mean of the tokens of each patch of tissue, row by row, (n, dim), after `run`."""
        return pooled_tissue(self._sparse_map(len(self.steps) - 1), self._packed.norm)

    def _sparse_map(self, number: int) -> SparseMapInFiles:
        return SparseMapInFiles(self._scratch, f"{number}.map", self._tissue[self.steps[number].stage])

    def _stem(self, number: int, pixels: PixelRows, workers: Workers) -> None:
        stem = self._packed.stem
        make = stem_tissue(pixels, stem)
        self._fill(number, make, "stem", workers, lambda *rows: pixels.advance(*stem_sources(stem, *rows)))

    def _downsample(self, number: int, step: Step, workers: Workers) -> None:
        source = self._sparse_map(number - 1)

        def clear(first: int, last: int) -> None:
            source.drop([i for i, strip in enumerate(source.stage.strips) if strip.last <= 2 * first - 1])

        make = downsample_tissue(source, self._packed.downsamples[step.stage - 1])
        self._fill(number, make, "downsample", workers, clear)

    def _fill(
        self,
        number: int,
        make: MakeRows,
        operator: str,
        workers: Workers,
        prepare: Callable[[int, int], None],
    ) -> None:
        """Make the strips of a map."""
        into = self._sparse_map(number)
        stage = into.stage
        begin = into.n_written()
        self._count(number, sum(strip.tokens for strip in stage.strips[:begin]) / stage.tokens)
        for i in range(begin, len(stage.strips)):
            strip = stage.strips[i]
            prepare(strip.first, strip.last)
            out = torch.empty(into.shape(i), dtype=stage.dense.dtype)
            fill_strip(strip, out, make, operator=operator, workers=workers, profile=self._profile)
            into.write(i, out)
            self._count(number, strip.tokens / stage.tokens)

    def _block(self, number: int, step: Step, workers: Workers) -> None:
        assert step.block is not None
        tissue = self._tissue[step.stage]
        stage, block = tissue.dense, self._packed.stages[step.stage][step.block]
        first_pass = self._first_pass_share(stage)

        def count(share: float, tokens: int) -> None:
            self._count(number, share * tokens / tissue.tokens)

        with closing(
            SparseCarriesInFiles(block.scan, stage=tissue, scratch=self._scratch, name=f"{number}")
        ) as carries:
            run = SparseBlockRun(
                block=block,
                stage=stage,
                kept=None,
                carries=Counted(carries, partial(count, first_pass)),
                scratch=self._hands(stage, sparse_layout(tissue)),
                profile=self._profile,
                tissue=tissue,
                map=ChangingTissue(
                    self._sparse_map(number - 1),
                    self._sparse_map(number),
                    carries,
                    partial(count, 1 - first_pass),
                ),
            )
            self._two_passes(number, run, carries, len(tissue.ranges), first_pass, workers)


def sparse_memory_bytes(stages: tuple[SparseStage, ...]) -> int:
    """See `scratch_forward.memory_bytes`."""
    each = []
    for tissue in stages:
        stage = tissue.dense
        states = 2 * 4 * stage.scan_lanes * ((stage.width + 1) * len(tissue.ranges) + len(tissue.strips))
        strip = tissue.most_tokens * stage.d_model * stage.dtype.itemsize * (stage.workers + 4)
        each.append(states + at_work_bytes(tissue) + tissue.border_bytes + strip + stage.transient_bytes)
    return sparse_workers_bytes(stages) + max(each) + OTHER_BYTES


def sparse_disk_bytes(stages: tuple[SparseStage, ...]) -> int:
    """See `scratch_forward.disk_bytes`."""
    each = []
    for i, tissue in enumerate(stages):
        stage = tissue.dense
        carried = sum(
            carries_bytes(lanes=stage.scan_lanes, width=strip.columns.count, strips=1)
            for strip in tissue.strips
        )
        states = 4 * stage.scan_lanes * ((stage.width + 1) * 2 * len(tissue.ranges) + len(tissue.strips))
        strip = tissue.most_tokens * stage.d_model * stage.dtype.itemsize
        size = _bytes(tissue)
        each.append(size + carried + states + 2 * tissue.border_bytes + (stage.workers + 1) * strip)
        if i:
            before = stages[i - 1]
            above = before.most_tokens * before.dense.d_model * before.dense.dtype.itemsize
            each.append(max(_bytes(before), size) + 4 * strip + 4 * above)
    return max(each)


def _bytes(tissue: SparseStage) -> int:
    stage: StagePlan = tissue.dense
    return tissue.tokens * stage.d_model * stage.dtype.itemsize
