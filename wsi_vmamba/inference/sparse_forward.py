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
from wsi_vmamba.inference.convolve import Rows, downsampled_rows, stem_rows, stem_sources
from wsi_vmamba.inference.forward_in_files import Counted, PixelRows, Step
from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.inference.packed import PackedVMamba
from wsi_vmamba.inference.plan import CONV_ROWS, EncodePlan, StagePlan
from wsi_vmamba.inference.residual import Reached
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.scratch_forward import OTHER_BYTES, ScratchForward
from wsi_vmamba.inference.sparse_block import SparseBlockRun, SparseCarries
from wsi_vmamba.inference.sparse_plan import SparseStage, SparseStrip, plan_sparse
from wsi_vmamba.inference.workers import Profile, Workers

#: Tokens of a run that are convolved together, if that is more than `CONV_ROWS` rows.
_CONV_TOKENS = 8192


class SparseForward(ScratchForward):
    """One region on its way through the encoder, of which only some patches are tissue."""

    def __init__(
        self,
        packed: PackedVMamba,
        plan: EncodePlan,
        scratch: Scratch,
        *,
        tissue: NDArray[np.bool_],
        memory: Tensor,
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """See `ScratchForward`; ``tissue`` are the patches (rows, columns) of the region that are."""
        super().__init__(packed, plan, scratch, memory=memory, profile=profile, report=report)
        self._tissue = plan_sparse(plan, tissue)

    def pooled(self) -> NDArray[np.float32]:
        """The mean of the tokens of each patch of tissue, row by row, (n, dim), after `run`."""
        last, whole = self._tissue[-1], self._sparse_map(len(self.steps) - 1)
        tokens, dim = last.rows_per_patch, last.dense.d_model
        pooled, held = [], []
        for i, strip in enumerate(last.strips):
            held.append(whole.strip(i))
            if strip.last % tokens == 0:  # the lower edge of a row of patches
                x = torch.cat(held)
                held = []
                features = self._packed.norm(x, x.new_empty(x.shape, dtype=torch.float32)).numpy()
                pooled.append(features.reshape(tokens, -1, tokens, dim).mean(axis=(0, 2), dtype=np.float32))
        return np.concatenate(pooled)

    def _sparse_map(self, number: int) -> SparseMapInFiles:
        return SparseMapInFiles(self._scratch, f"{number}.map", self._tissue[self.steps[number].stage])

    def _stem(self, number: int, pixels: PixelRows, workers: Workers) -> None:
        stem = self._packed.stem
        into = self._sparse_map(number)

        def make(strip: SparseStrip, first: int, last: int, out: Tensor) -> None:
            top, bottom = stem_sources(stem, first, last)
            held = _HeldPixels(pixels, max(top, 0), min(bottom, pixels.height))
            for left, right, place in strip.columns.pieces():
                # One token more to the left: its own left half is wrong, and all that the others look at is there.
                start = max(left - 1, 0)
                rows = stem_rows(held.columns(4 * start, 4 * right), stem, first, last)
                out[:, place] = rows[:, left - start :]

        self._fill(
            number, into, make, "stem", workers, lambda *rows: pixels.advance(*stem_sources(stem, *rows))
        )

    def _downsample(self, number: int, step: Step, workers: Workers) -> None:
        source, into = self._sparse_map(number - 1), self._sparse_map(number)
        layer = self._packed.downsamples[step.stage - 1]

        def make(strip: SparseStrip, first: int, last: int, out: Tensor) -> None:
            held = _HeldTissue(source, max(2 * first - 1, 0), min(2 * last + 1, source.stage.dense.height))
            for left, right, place in strip.columns.pieces():
                # One token more to the left, as for the stem: what is beside the tissue may be glass and what is
                # above that tissue.
                start = max(left - 1, 0)
                rows = downsampled_rows(held.columns(2 * start, 2 * right), layer, first, last)
                out[:, place] = rows[:, left - start :]

        def clear(first: int, last: int) -> None:
            source.drop([i for i, strip in enumerate(source.stage.strips) if strip.last <= 2 * first - 1])

        self._fill(number, into, make, "downsample", workers, clear)

    def _fill(
        self,
        number: int,
        into: SparseMapInFiles,
        make: Callable[[SparseStrip, int, int, Tensor], None],
        operator: str,
        workers: Workers,
        prepare: Callable[[int, int], None],
    ) -> None:
        """Make the strips of a map, some rows of a strip at a time."""
        stage = into.stage

        def rows(strip: SparseStrip, out: Tensor, first: int, last: int) -> None:
            with self._profile.measure(operator):
                make(strip, first, last, out[first - strip.first : last - strip.first])

        begin = into.n_written()
        self._count(number, sum(strip.tokens for strip in stage.strips[:begin]) / stage.tokens)
        for i in range(begin, len(stage.strips)):
            strip = stage.strips[i]
            prepare(strip.first, strip.last)
            out = torch.empty(into.shape(i), dtype=stage.dense.dtype)
            step = _rows_at_once(strip)
            starts = range(strip.first, strip.last, step)
            workers.run([partial(rows, strip, out, row, min(row + step, strip.last)) for row in starts])
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
            SparseCarries(block.scan, stage=tissue, scratch=self._scratch, name=f"{number}")
        ) as carries:
            run = SparseBlockRun(
                block=block,
                stage=stage,
                carries=Counted(carries, partial(count, first_pass)),
                scratch=self._hands(stage, sparse_layout(tissue)),
                profile=self._profile,
                tissue=tissue,
                map=_ChangingTissue(
                    self._sparse_map(number - 1),
                    self._sparse_map(number),
                    carries,
                    partial(count, 1 - first_pass),
                ),
            )
            self._two_passes(number, run, carries, len(tissue.ranges), first_pass, workers)


class SparseMapInFiles:
    """The tissue of a map, each strip a file: see `residual.MapInFiles`."""

    def __init__(self, scratch: Scratch, name: str, stage: SparseStage) -> None:
        """Name the map; its files need not be there yet."""
        self.stage = stage
        self._scratch = scratch
        self._name = name

    def shape(self, strip: int) -> tuple[int, int, int]:
        """(rows, tokens of tissue, d_model) of a strip."""
        found = self.stage.strips[strip]
        return found.last - found.first, found.columns.count, self.stage.dense.d_model

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        """See `SparseMap.strip`."""
        height, width, dim = self.shape(strip)
        first, last, _ = rows.indices(height)
        out = torch.empty(last - first, width, dim, dtype=self.stage.dense.dtype)
        self._scratch.read_part(f"{self._name}.{strip}", out, offset=first * out[0].nbytes)
        return out

    def write(self, strip: int, rows: Tensor) -> None:
        """Keep a strip."""
        self._scratch.write(f"{self._name}.{strip}", [rows.contiguous()])

    def n_written(self) -> int:
        """How many strips are there, counted from the top down to the first that is not."""
        n_strips = len(self.stage.strips)
        return next((i for i in range(n_strips) if not self._scratch.has(f"{self._name}.{i}")), n_strips)

    def drop(self, strips: list[int]) -> None:
        """Remove strips; those that are gone already do not matter."""
        for strip in strips:
            self._scratch.drop(f"{self._name}.{strip}")


class _ChangingTissue:
    """The map of a block: old strips are read and removed, new ones written; see `SparseMap`."""

    def __init__(
        self,
        old: SparseMapInFiles,
        new: SparseMapInFiles,
        carries: SparseCarries,
        count: Callable[[int], None],
    ) -> None:
        self._old = old
        self._new = new
        self._carries = carries
        self._count = count

    def strip(self, strip: int, *, rows: slice = slice(None)) -> Tensor:
        return self._old.strip(strip, rows=rows)

    def begin(self, part: int) -> Reached:
        stage = self._old.stage
        beside = torch.empty(2, stage.dense.width, stage.dense.d_inner, dtype=stage.dense.dtype)
        done = self._carries.take_up_range(part, beside)
        first = stage.ranges[part][0]
        self._count(sum(strip.tokens for strip in stage.strips[first : first + done]))
        return Reached(done, beside if done else None)

    def finish(self, part: int, strip: int, rows: Tensor, beside: Tensor) -> None:
        self._new.write(strip, rows)
        self._carries.keep_range(part, strip + 1 - self._old.stage.ranges[part][0], beside)
        self._old.drop([strip])
        self._count(self._old.stage.strips[strip].tokens)


class _Columns:
    """Some columns of rows that are held: what the convolutions take."""

    def __init__(self, height: int, width: int, rows: Callable[[int, int], Tensor]) -> None:
        self.height, self.width = height, width
        self.rows = rows


class _HeldPixels:
    """Rows [first, last) of the pixels, of which columns are taken."""

    def __init__(self, pixels: Rows, first: int, last: int) -> None:
        self._height = pixels.height
        self._first = first
        self._rows = pixels.rows(first, last)

    def columns(self, left: int, right: int) -> _Columns:
        """Columns [left, right)."""

        def rows(first: int, last: int) -> Tensor:
            return self._rows[first - self._first : last - self._first, left:right]

        return _Columns(self._height, right - left, rows)


class _HeldTissue:
    """Rows [first, last) of a map of tissue, of which columns are taken, zeros where there is none."""

    def __init__(self, source: SparseMapInFiles, first: int, last: int) -> None:
        self._dense = source.stage.dense
        self._parts: list[tuple[int, SparseStrip, Tensor]] = []
        for i, strip in enumerate(source.stage.strips):
            top, bottom = max(first, strip.first), min(last, strip.last)
            if top < bottom:
                rows = source.strip(i, rows=slice(top - strip.first, bottom - strip.first))
                self._parts.append((top, strip, rows))

    def columns(self, left: int, right: int) -> _Columns:
        """Columns [left, right)."""
        return _Columns(self._dense.height, right - left, partial(self._cut, left, right))

    def _cut(self, left: int, right: int, first: int, last: int) -> Tensor:
        out = torch.zeros(last - first, right - left, self._dense.d_model, dtype=self._dense.dtype)
        for top, strip, rows in self._parts:
            low, high = max(first, top), min(last, top + len(rows))
            if low >= high:
                continue
            for begin, end, place in strip.columns.pieces():
                start, stop = max(begin, left), min(end, right)
                if start < stop:
                    columns = slice(place.start + start - begin, place.start + stop - begin)
                    out[low - first : high - first, start - left : stop - left] = rows[
                        low - top : high - top, columns
                    ]
        return out


def _rows_at_once(strip: SparseStrip) -> int:
    """Rows that are convolved together: the shorter the runs of columns, the more, so that each call is worth it."""
    longest = max(last - first for first, last in strip.columns.runs)
    return max(CONV_ROWS, _CONV_TOKENS // longest)


def sparse_layout(tissue: SparseStage) -> Layout:
    """What a worker needs for a block of a stage."""
    tokens, stage = tissue.most_tokens, tissue.dense
    inner = ((tokens, stage.d_inner), stage.dtype)
    return {
        "rows": inner,
        "u": inner,
        "own": inner,
        "proj": ((tokens, stage.proj_width), torch.float32),
        "y": ((tokens, stage.d_inner), torch.float32),
        "norm": ((min(tokens, 4096), max(stage.d_model, stage.d_inner)), stage.dtype),
    }


def sparse_workers_bytes(stages: tuple[SparseStage, ...]) -> int:
    """Memory of all workers at the widest stage."""
    return max(stage.dense.workers * layout_bytes(sparse_layout(stage)) for stage in stages)


def sparse_memory_bytes(stages: tuple[SparseStage, ...]) -> int:
    """See `scratch_forward.memory_bytes`."""
    each = []
    for tissue in stages:
        stage = tissue.dense
        states = 2 * 4 * stage.scan_lanes * ((stage.width + 1) * len(tissue.ranges) + len(tissue.strips))
        at_work = (
            stage.workers
            * stage.width
            * (8 * 4 * stage.scan_lanes + 8 * stage.d_inner * stage.dtype.itemsize)
        )
        borders = 2 * len(tissue.ranges) * stage.width * stage.d_inner * stage.dtype.itemsize
        strip = tissue.most_tokens * stage.d_model * stage.dtype.itemsize * (stage.workers + 4)
        each.append(states + at_work + borders + strip + stage.transient_bytes)
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
        borders = 4 * len(tissue.ranges) * stage.width * stage.d_inner * stage.dtype.itemsize
        strip = tissue.most_tokens * stage.d_model * stage.dtype.itemsize
        size = _bytes(tissue)
        each.append(size + carried + states + borders + (stage.workers + 1) * strip)
        if i:
            before = stages[i - 1]
            above = before.most_tokens * before.dense.d_model * before.dense.dtype.itemsize
            each.append(max(_bytes(before), size) + 4 * strip + 4 * above)
    return max(each)


def _bytes(tissue: SparseStage) -> int:
    stage: StagePlan = tissue.dense
    return tissue.tokens * stage.d_model * stage.dtype.itemsize
