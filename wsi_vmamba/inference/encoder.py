"""The strip encoder: a region of any size through a VMamba in one pass on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference.block import BlockRun
from wsi_vmamba.inference.convolve import downsample, embed, pixel_tensor
from wsi_vmamba.inference.forward_in_files import PixelRows
from wsi_vmamba.inference.memory import Arena, carve, free_bytes, largest_side_px, layout_bytes, too_large
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import SPARE_BYTES, EncodePlan, StagePlan, plan_encode, shrinks_in_place
from wsi_vmamba.inference.residual import MapInMemory
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch_forward import ScratchForward, workers_bytes
from wsi_vmamba.inference.scratch_forward import memory_bytes as scratch_memory_bytes
from wsi_vmamba.inference.sparse_block import sparse_workers_bytes
from wsi_vmamba.inference.sparse_forward import SparseForward, sparse_memory_bytes
from wsi_vmamba.inference.sparse_in_memory import SparseInMemory, tissue_maps_bytes, tissue_memory_bytes
from wsi_vmamba.inference.sparse_plan import SparseStage, keep_inputs, plan_sparse
from wsi_vmamba.inference.workers import Profile, Workers
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

InScratch = TypeVar("InScratch", bound=ScratchForward)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StripForward:
    """Feature maps of whole regions, computed strip by strip; one region at a time, whoever calls.

    Attributes:
        profile: CPU seconds per operator of all regions so far.
    """

    def __init__(
        self,
        model: VMamba,
        *,
        precision: str,
        threads: int | None = None,
        memory_limit: int | None = None,
        strip_rows: int | None = None,
    ) -> None:
        """Pack the weights of ``model``.

        Args:
            model: stays as it is and may be dropped afterwards.
            precision: "fp32" or "bf16" storage of maps and matmul inputs; sums and scans are float32.
            threads: None takes as many as torch would use.
            memory_limit: most bytes the process may hold; None = what the machine has free.
            strip_rows: rows per strip; None chooses.
        """
        self.config = model.config
        self.dtype = _DTYPES[precision]
        self.threads = threads if threads is not None else torch.get_num_threads()
        self.profile = Profile()
        self.packed = PackedVMamba.of(model, self.dtype)
        self._memory_limit = memory_limit
        self._strip_rows = strip_rows
        self._maps, self._scratch = Arena(), Arena()
        self._lock = Lock()

    def plan(self, *, height_px: int, width_px: int, beside_bytes: int = 0) -> EncodePlan:
        """Strips and memory of a region: more memory than needed where it spares time and is free.

        Args:
            height_px: of the region.
            width_px: likewise.
            beside_bytes: what else is to be free for it.
        """
        plan = self._plan(height_px=height_px, width_px=width_px, spare_bytes=SPARE_BYTES)
        if plan.total_bytes + beside_bytes <= self._allowed_bytes():
            return plan
        return self._plan(height_px=height_px, width_px=width_px)

    def _plan(self, *, height_px: int, width_px: int, spare_bytes: int = 0) -> EncodePlan:
        return plan_encode(
            self.config,
            height_px=height_px,
            width_px=width_px,
            dtype=self.dtype,
            workers=self.threads,
            strip_rows=self._strip_rows,
            spare_bytes=spare_bytes,
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (h, w, dim) of RGB pixels (H, W, 3).

        Raises:
            MemoryLimitError: it would not fit; nothing has been allocated, and the message has a size that fits.
            UsageError: the region is smaller than one token.
        """
        height_px, width_px = pixels.shape[:2]
        plan = self.plan(height_px=height_px, width_px=width_px)
        _require_tokens(plan)
        with self._lock:
            return self._encode(pixels, plan)

    def stage_maps(self, pixels: NDArray[np.uint8], *, beside_bytes: int = 0) -> list[Tensor]:
        """The map of each stage as its blocks leave it, (h, w, C) in ``dtype``: what `VMamba.forward_stages` gives.

        Args:
            pixels: RGB (H, W, 3) of the region.
            beside_bytes: what else is to be free, for what is made of the maps.

        Raises:
            MemoryLimitError: the region and its maps would not fit.
            UsageError: the region is smaller than one token.
        """
        height_px, width_px = pixels.shape[:2]
        plan = self._plan(height_px=height_px, width_px=width_px)
        _require_tokens(plan)
        kept_bytes = beside_bytes + sum(layout_bytes({"x": stage.map_layout["x"]}) for stage in plan.stages)
        plan = self.plan(height_px=height_px, width_px=width_px, beside_bytes=kept_bytes)
        maps: list[Tensor] = []
        with self._lock:
            self._encode(
                pixels, plan, on_stage=lambda map_: maps.append(map_.clone()), beside_bytes=kept_bytes
            )
        return maps

    def in_scratch(
        self, pixels: PixelRows, scratch: Scratch, *, report: Callable[[float], None], pixels_bytes: int = 0
    ) -> ScratchForward:
        """Encode a region of any size with its map on the disk: the bytes of `__call__` in little memory.

        Args:
            pixels: of the region, from top to bottom.
            scratch: where the map lies; what an earlier process left there is gone on from.
            report: takes the share that is done, 0 to 1, from any thread.
            pixels_bytes: memory that ``pixels`` take.

        Returns:
            What gives the features, some rows at a time.

        Raises:
            MemoryLimitError: the strips would not fit.
            StoreError: the disk refuses.
            UsageError: the region is smaller than one token.
        """
        plan = self.plan_in_scratch(height_px=pixels.height, width_px=pixels.width)
        make = partial(ScratchForward, self.packed, plan, scratch, profile=self.profile, report=report)
        memory, needed = workers_bytes(plan), scratch_memory_bytes(plan) + pixels_bytes
        return self._run_in_scratch(make, plan, pixels, memory=memory, needed=needed)

    def tissue_in_scratch(
        self,
        pixels: PixelRows,
        tissue: NDArray[np.bool_],
        scratch: Scratch,
        *,
        report: Callable[[float], None],
        pixels_bytes: int = 0,
    ) -> SparseForward:
        """Encode the tissue of a region, see `in_scratch`; what is outside takes no part.

        Tokens outside have step size zero in every scan, are zeros to every convolution on maps, and are neither
        kept nor computed. The stem looks at pixels as they are.

        Args:
            pixels: of the region, whole patches.
            tissue: (rows, columns) of patches, together the region; those that are tissue.
            scratch: see `in_scratch`, as for the others.
            report: likewise.
            pixels_bytes: likewise.
        """
        plan, stages = self._plan_tissue(pixels, tissue)
        make = partial(
            SparseForward, self.packed, plan, scratch, tissue=stages, profile=self.profile, report=report
        )
        memory, needed = sparse_workers_bytes(stages), sparse_memory_bytes(stages) + pixels_bytes
        return self._run_in_scratch(make, plan, pixels, memory=memory, needed=needed)

    def pool_tissue(
        self,
        pixels: PixelRows,
        tissue: NDArray[np.bool_],
        *,
        report: Callable[[float], None],
        pixels_bytes: int = 0,
    ) -> NDArray[np.float32]:
        """Encode the tissue of a region with its maps in memory: the bytes of `tissue_in_scratch`, and no files.

        Args:
            pixels: see `tissue_in_scratch`, as for the others.
            tissue: likewise.
            report: likewise.
            pixels_bytes: likewise.

        Returns:
            The mean of the tokens of each patch of tissue, row by row, (n, dim).

        Raises:
            MemoryLimitError: it would not fit; nothing has been read or computed.
            UsageError: patches are not whole tokens.
        """
        plan, stages = self._plan_tissue(pixels, tissue)
        _require_tokens(plan)
        with self._lock:
            allowed = self._allowed_bytes() - pixels_bytes
            kept = keep_inputs(stages, spare_bytes=SPARE_BYTES)
            if tissue_memory_bytes(kept) > allowed:
                kept = keep_inputs(stages)
            needed = tissue_memory_bytes(kept)
            if needed > allowed:
                raise MemoryLimitError(
                    f"the tissue of a region of {plan.width_px} x {plan.height_px} px needs {needed / 1e9:.1f} GB in "
                    f"memory, but {max(allowed, 0) / 1e9:.1f} GB are left; use its maps in files, or a smaller "
                    "--region-px"
                )
            forward = SparseInMemory(
                self.packed,
                plan,
                kept,
                maps=self._maps.take(tissue_maps_bytes(kept)),
                memory=self._scratch.take(sparse_workers_bytes(kept)),
                profile=self.profile,
                report=report,
            )
            with torch.inference_mode(), Workers(self.threads) as workers:
                return forward.pooled(pixels, workers)

    def _plan_tissue(
        self, pixels: PixelRows, tissue: NDArray[np.bool_]
    ) -> tuple[EncodePlan, tuple[SparseStage, ...]]:
        """The plan of a region and of its tissue."""
        plan = self.plan_in_scratch(height_px=pixels.height, width_px=pixels.width)
        rows, columns = tissue.shape
        if not tissue.any():
            raise UsageError(
                f"expected a patch of tissue in the region, got {rows} x {columns} patches without any"
            )
        if plan.stages[-1].height % rows or plan.stages[-1].width % columns:
            raise UsageError(
                f"a region of {plan.width_px} x {plan.height_px} px is not {columns} x {rows} patches of whole tokens"
            )
        return plan, plan_sparse(plan, tissue)

    def _run_in_scratch(
        self,
        make: Callable[..., InScratch],
        plan: EncodePlan,
        pixels: PixelRows,
        *,
        memory: int,
        needed: int,
    ) -> InScratch:
        """Run a pass with ``memory`` bytes for its workers, where ``needed`` bytes in all are free."""
        _require_tokens(plan)
        with self._lock:
            allowed = self._allowed_bytes()
            if needed > allowed:
                raise MemoryLimitError(
                    f"a region of {plan.width_px} x {plan.height_px} px needs {needed / 1e9:.1f} GB even with its map "
                    f"in files, but {max(allowed, 0) / 1e9:.1f} GB are left; use a smaller --region-px, --precision "
                    "bf16, or a higher --memory-limit-gb"
                )
            forward = make(memory=self._scratch.take(memory))
            with torch.inference_mode(), Workers(self.threads) as workers:
                forward.run(pixels, workers)
        return forward

    def plan_in_scratch(self, *, height_px: int, width_px: int) -> EncodePlan:
        """The strips of `plan`, with nothing kept between the passes of a block."""
        plan = self._plan(height_px=height_px, width_px=width_px)
        stages = tuple(replace(stage, keep_u=False, keep_proj=False) for stage in plan.stages)
        return replace(plan, stages=stages)

    def _encode(
        self,
        pixels: NDArray[np.uint8],
        plan: EncodePlan,
        *,
        on_stage: Callable[[Tensor], None] = lambda _: None,
        beside_bytes: int = 0,
    ) -> NDArray[np.float32]:
        """Encode a region; ``on_stage`` is shown the map of each stage, which changes afterwards."""
        allowed = self._allowed_bytes() - beside_bytes
        if plan.total_bytes > allowed:  # less may be free than a moment ago, when it was planned
            plan = self._plan(height_px=plan.height_px, width_px=plan.width_px)
        if plan.total_bytes > allowed:
            largest = largest_side_px(
                lambda side: self._plan(height_px=side, width_px=side).total_bytes <= allowed
            )
            raise too_large(
                plan.height_px, plan.width_px, needed=plan.total_bytes, allowed=allowed, side_px=largest
            )
        maps = self._maps.take(plan.map_bytes)
        scratch = self._scratch.take(plan.scratch_bytes)
        with torch.inference_mode(), Workers(self.threads) as workers:
            x = carve(maps, plan.stages[0].map_layout)["x"]
            embed(pixel_tensor(pixels), self.packed.stem, x, plan.stages[0], workers, self.profile)
            for i, stage in enumerate(plan.stages):
                x = self._stage(i, stage, x, maps, scratch, workers)
                on_stage(x)
                if i + 1 < len(plan.stages):
                    x = self._downsample(i, plan, x, maps, workers)
            features: NDArray[np.float32] = self.packed.norm(
                x, x.new_empty(x.shape, dtype=torch.float32)
            ).numpy()
        return features

    def _stage(
        self, index: int, stage: StagePlan, x: Tensor, maps: Tensor, scratch: Tensor, workers: Workers
    ) -> Tensor:
        """Run the blocks of a stage on ``x``, which lies at the start or at the end of ``maps``."""
        tensors = carve(maps, stage.map_layout)
        if x.data_ptr() != tensors["x"].data_ptr():
            tensors["x"].copy_(x.clone())  # the two may overlap
        each = layout_bytes(stage.worker_layout)
        pieces = [
            carve(scratch[i * each : (i + 1) * each], stage.worker_layout) for i in range(stage.workers)
        ]
        for block in self.packed.stages[index]:
            BlockRun(
                block=block,
                stage=stage,
                map=MapInMemory(tensors["x"]),
                carries=cpu.StripCarries(
                    block.scan, width=stage.width, ranges=[len(part.strips) for part in stage.ranges]
                ),
                kept_u=tensors.get("u"),
                kept_proj=tensors.get("proj"),
                scratch=pieces,
                profile=self.profile,
            ).run(workers)
        return tensors["x"]

    def _downsample(self, index: int, plan: EncodePlan, x: Tensor, maps: Tensor, workers: Workers) -> Tensor:
        source, target = plan.stages[index : index + 2]
        layout = {"x": target.map_layout["x"]}
        start = 0 if shrinks_in_place(source, target) else layout_bytes({"x": source.map_layout["x"]})
        out = carve(maps[start:], layout)["x"]
        downsample(x, self.packed.downsamples[index], out, target, workers, self.profile)
        return out

    def _allowed_bytes(self) -> int:
        """Bytes this encoder may hold, what it holds already included."""
        return free_bytes(self._memory_limit) + self._maps.held_bytes + self._scratch.held_bytes


def _require_tokens(plan: EncodePlan) -> None:
    if min(min(stage.height, stage.width) for stage in plan.stages) < 1:
        raise UsageError(f"a region of {plan.width_px} x {plan.height_px} px is too small for this backbone")
