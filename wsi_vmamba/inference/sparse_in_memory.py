"""The tissue of a region through the encoder with its maps in memory: the bytes of `sparse_forward`, and no files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.convolve import stem_sources
from wsi_vmamba.inference.forward_in_files import PixelRows, plan_steps
from wsi_vmamba.inference.memory import carve, layout_bytes
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import OVERHEAD_BYTES, EncodePlan
from wsi_vmamba.inference.sparse_block import (
    KeptInputs,
    SparseBlockRun,
    at_work_bytes,
    sparse_layout,
    sparse_workers_bytes,
)
from wsi_vmamba.inference.sparse_carries import SparseCarriesInMemory
from wsi_vmamba.inference.sparse_convolve import (
    MakeRows,
    downsample_tissue,
    fill_strip,
    pooled_tissue,
    stem_tissue,
    tissue_conv_bytes,
)
from wsi_vmamba.inference.sparse_maps import SparseMapInMemory, strips_of
from wsi_vmamba.inference.sparse_plan import SparseStage
from wsi_vmamba.inference.workers import Profile, Workers


class SparseInMemory:
    """One region on its way through the encoder, of which only some patches are tissue."""

    def __init__(
        self,
        packed: PackedVMamba,
        plan: EncodePlan,
        stages: tuple[SparseStage, ...],
        *,
        maps: Tensor,
        memory: Tensor,
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """Prepare.

        Args:
            packed: the weights.
            plan: of the region.
            stages: of its tissue.
            maps: at least `tissue_maps_bytes`.
            memory: for the workers, see `sparse_block.sparse_workers_bytes`.
            profile: takes CPU seconds.
            report: takes the share of the work that is done, 0 to 1.
        """
        self._packed = packed
        self._stages = stages
        self._maps = maps
        self._memory = memory
        self._profile = profile
        self._report = report
        steps = plan_steps([len(blocks) for blocks in packed.stages], plan)
        self._shares = iter(accumulate(step.cost for step in steps))
        self._total = sum(step.cost for step in steps)

    def pooled(self, pixels: PixelRows, workers: Workers) -> NDArray[np.float32]:
        """The mean of the tokens of each patch of tissue, row by row, (n, dim)."""
        whole = self._stem(pixels, workers)
        for i in range(len(self._stages)):
            if i:
                whole = self._downsample(i, whole, workers)
            self._blocks(i, whole, workers)
        return pooled_tissue(whole, self._packed.norm)

    def _stem(self, pixels: PixelRows, workers: Workers) -> SparseMapInMemory:
        stem = self._packed.stem
        make = stem_tissue(pixels, stem)
        into = SparseMapInMemory(carve(self._maps, self._stages[0].map_layout)["x"], self._stages[0])
        self._fill(into, make, "stem", workers, lambda *rows: pixels.advance(*stem_sources(stem, *rows)))
        return into

    def _downsample(self, index: int, source: SparseMapInMemory, workers: Workers) -> SparseMapInMemory:
        x = carve(self._maps, self._stages[index].map_layout)["x"]
        made = torch.empty_like(x)  # beside its source, which lies where it shall
        make = downsample_tissue(source, self._packed.downsamples[index - 1])
        self._fill(SparseMapInMemory(made, self._stages[index]), make, "downsample", workers)
        return SparseMapInMemory(x.copy_(made), self._stages[index])

    def _fill(
        self,
        into: SparseMapInMemory,
        make: MakeRows,
        operator: str,
        workers: Workers,
        prepare: Callable[[int, int], None] = lambda first, last: None,
    ) -> None:
        for i, strip in enumerate(into.stage.strips):
            prepare(strip.first, strip.last)
            fill_strip(strip, into.strip(i), make, operator=operator, workers=workers, profile=self._profile)
        self._count()

    def _blocks(self, index: int, whole: SparseMapInMemory, workers: Workers) -> None:
        """Run the blocks of a stage on its map."""
        tissue = self._stages[index]
        tensors = carve(self._maps, tissue.map_layout)
        kept = None
        if "u" in tensors:
            proj = strips_of(tensors["proj"], tissue) if "proj" in tensors else None
            kept = KeptInputs(strips_of(tensors["u"], tissue), proj)
        carries = SparseCarriesInMemory(tissue)
        layout = sparse_layout(tissue)
        each = layout_bytes(layout)
        hands = [carve(self._memory[i * each : (i + 1) * each], layout) for i in range(tissue.dense.workers)]
        for block in self._packed.stages[index]:
            carries.begin(block.scan)
            SparseBlockRun(
                block=block,
                stage=tissue.dense,
                tissue=tissue,
                map=whole,
                carries=carries,
                kept=kept,
                scratch=hands,
                profile=self._profile,
            ).run(workers)
            self._count()

    def _count(self) -> None:
        """Note that a step is done."""
        self._report(next(self._shares) / self._total)


def tissue_maps_bytes(stages: tuple[SparseStage, ...]) -> int:
    """The block that the maps of all stages share, with what is kept beside them."""
    return max(layout_bytes(stage.map_layout) for stage in stages)


def tissue_memory_bytes(stages: tuple[SparseStage, ...]) -> int:
    """Memory of a pass, the pixels not counted."""
    each = []
    for i, tissue in enumerate(stages):
        stage = tissue.dense
        slots = len(tissue.ranges) + len(tissue.strips)
        carries = 2 * 4 * stage.scan_lanes * (stage.width + 1) * slots
        blocks = carries + tissue.border_bytes + at_work_bytes(tissue) + stage.transient_bytes
        made = tissue.tokens * stage.d_model * stage.dtype.itemsize if i else 0
        each.append(max(blocks, made + tissue_conv_bytes(tissue)))
    return tissue_maps_bytes(stages) + sparse_workers_bytes(stages) + max(each) + OVERHEAD_BYTES
