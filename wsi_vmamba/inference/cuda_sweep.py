"""A region of any size in one pass on a GPU: its map in files, of which strips go to the GPU and come back.

The order of strips, what is kept for who goes on after a death, and the walk over a block are those of the CPU
(`scratch_forward`, `block.BlockRun`); the arithmetic is that of `cuda_forward`. While the GPU works at a strip, the
next is read and uploaded, and the one before is downloaded and written (`cuda_transfers`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.block import BlockRun
from wsi_vmamba.inference.cuda_carries import CudaCarries
from wsi_vmamba.inference.cuda_forward import CudaForward
from wsi_vmamba.inference.cuda_plan import finished_layout, map_layout, scratch_layout
from wsi_vmamba.inference.cuda_steps import CudaSteps
from wsi_vmamba.inference.cuda_transfers import Downloads, Named, Uploads
from wsi_vmamba.inference.forward_in_files import (
    Counted,
    ForwardInFiles,
    PixelRows,
    RowsOfMap,
    Step,
    clear_above,
)
from wsi_vmamba.inference.plan import EncodePlan
from wsi_vmamba.inference.residual import MapInFiles, Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.workers import Profile, Workers


class CudaSweep(ForwardInFiles):
    """One region on its way through the encoder."""

    def __init__(
        self,
        forward: CudaForward,
        plan: EncodePlan,
        scratch: Scratch,
        *,
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """Prepare.

        Args:
            forward: the network on its device.
            plan: of the region, by `cuda_plan.plan_sweep`.
            scratch: where the maps lie.
            profile: takes CPU seconds.
            report: takes the share of the work that is done, 0 to 1.
        """
        depths = [len(blocks) for blocks in forward.weights.stages]
        super().__init__(plan, scratch, depths=depths, profile=profile, report=report)
        self._forward = forward

    def feature_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """See `ForwardInFiles.feature_rows`."""
        x = self._map(len(self.steps) - 1).rows(first, last, None)
        with torch.inference_mode():
            features = self._forward.final_norm(x.to(self._forward.device)).cpu()
        found: NDArray[np.float32] = features.numpy()
        return found

    def _stem(self, number: int, pixels: PixelRows, workers: Workers) -> None:
        forward, height_px = self._forward, pixels.height

        def on_device(first: int, last: int) -> Tensor:
            return pixels.rows(first, last).to(forward.device)

        def make(first: int, last: int) -> Tensor:
            return forward.stem_rows(on_device, first, last, height_px=height_px).cpu()

        def prepare(first: int, last: int) -> None:
            pixels.advance(*forward.stem_sources(first, last, height_px=height_px))

        self._pour(number, self._map(number), make, "stem", workers, prepare=prepare)

    def _downsample(self, number: int, step: Step, workers: Workers) -> None:
        forward, source = self._forward, self._map(number - 1)
        layer, rows = forward.weights.downsamples[step.stage - 1], RowsOfMap(source)

        def on_device(first: int, last: int) -> Tensor:
            return rows.rows(first, last).to(forward.device)

        def make(first: int, last: int) -> Tensor:
            return forward.downsampled_rows(layer, on_device, first, last, height=rows.height).cpu()

        self._pour(number, self._map(number), make, "downsample", workers, clear=clear_above(source))

    def _block(self, number: int, step: Step, workers: Workers) -> None:
        assert step.block is not None
        stage, device = self._stages[step.stage], self._forward.device
        steps = CudaSteps(self._forward.weights.stages[step.stage][step.block])
        first_pass = self._first_pass_share(stage)
        count = partial(self._count_rows, number, stage)
        layout = scratch_layout(stage, scratch_width=steps.scratch_width)
        scratch = {name: torch.empty(*shape, dtype=d, device=device) for name, (shape, d) in layout.items()}
        scratch["y"] = scratch["u"]  # the scan is written over what it reads
        strips = len(stage.ranges[0].strips)
        with (
            closing(
                CudaCarries(
                    steps.weights.scan,
                    width=stage.width,
                    strips=strips,
                    scratch=self._scratch,
                    name=f"{number}",
                )
            ) as carries,
            closing(
                _PassingMap(
                    self._map(number - 1), self._map(number), carries, partial(count, 1 - first_pass), device
                )
            ) as passing,
        ):
            run = BlockRun(
                block=steps,
                stage=stage,
                map=passing,
                carries=Counted(carries, lambda tokens: count(first_pass, tokens // stage.width)),
                kept_u=None,
                kept_proj=None,
                scratch=[scratch],
                profile=self._profile,
            )
            borders = run.project_borders(workers)  # nothing is beside the only range
            if carries.take_up():
                self._count(number, first_pass)
            else:
                run.summarize(borders, workers)
                with self._profile.measure("scan combine"):
                    carries.combine(threads=workers.count)
                carries.keep()
            run.apply(borders, workers)
            passing.drain()


class _PassingMap:
    """The map of a block on its way through the device: `residual.ResidualMap` in the order of `block.BlockRun`."""

    def __init__(
        self,
        old: MapInFiles,
        new: MapInFiles,
        carries: CudaCarries,
        count: Callable[[int], None],
        device: torch.device,
    ) -> None:
        self._old = old
        self._new = new
        self._carries = carries
        self._count = count
        self._device = device
        self._in: Uploads | None = None
        layout = {**finished_layout(old.stage), **carries.forward_layout}
        self._out = Downloads(layout, device=device)

    def close(self) -> None:
        """End its threads."""
        self._out.close()
        self._end_pass()

    def drain(self) -> None:
        """Wait until all strips are kept."""
        self._out.drain()

    def rows(self, first: int, last: int, buffer: Tensor | None) -> Tensor:
        """See `ResidualMap.rows`: of a strip and the row below it, strip by strip; valid until the next ones."""
        if self._in is None:
            height = self._old.stage.height
            fills = [
                partial(self._read, top, min(bottom + 1, height))
                for top, bottom in self._old.strips
                if top >= first
            ]
            self._in = Uploads(map_layout(self._old.stage), fills, device=self._device)
        return self._in.take()["x"][: last - first]

    def begin(self, part: int) -> Reached:
        """See `ResidualMap.begin`."""
        self._end_pass()
        stage = self._old.stage
        beside = torch.empty(2, stage.width, stage.d_inner, dtype=stage.dtype)
        done, handed = self._carries.take_up_reached(beside)
        for first, last in self._old.strips[:done]:
            self._count(last - first)
        return Reached(done, handed)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        """See `ResidualMap.finish`."""
        sent = {"x": rows, "beside": beside, **self._carries.forward_states}
        self._out.send(sent, partial(self._keep, strip))

    def _keep(self, strip: int, host: Named) -> None:
        """Only when all that the next strip needs is kept may the old one go."""
        self._new.write(strip, host["x"])
        self._carries.keep_reached(strip + 1, host, host["beside"])
        self._old.drop([strip])
        self._count(len(host["x"]))

    def _read(self, first: int, last: int, host: Named) -> None:
        self._old.rows(first, last, host["x"])

    def _end_pass(self) -> None:
        if self._in is not None:
            self._in.close()
            self._in = None
