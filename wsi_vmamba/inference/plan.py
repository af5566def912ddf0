"""How a region is cut into strips and what that takes in memory: pure arithmetic, nothing is allocated here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import isqrt

import torch

from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.model.config import VMambaConfig

#: Scan input of one strip; a few times this is touched per strip, which should stay in a shared cache.
_STRIP_BYTES = 8 << 20
#: Maps with fewer tokens than this per thread are not worth another thread.
_TOKENS_PER_WORKER = 256
#: Tokens that pass through norm, projections and MLP at once: wide layers want more of them per matmul.
_CHUNK_TOKENS = 2048
#: Rows of output per worker and step of the stem and of downsampling.
_CONV_ROWS = 8
#: Interpreter, torch, packed weights' copies and library workspaces that no layout lists.
_OVERHEAD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """The rows [first, last) that one worker handles, in strips of at most ``strip_rows``."""

    first: int
    last: int
    strip_rows: int

    @property
    def strips(self) -> list[tuple[int, int]]:
        """[first, last) of each strip, top to bottom."""
        starts = range(self.first, self.last, self.strip_rows)
        return [(start, min(start + self.strip_rows, self.last)) for start in starts]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a region: its map (height, width, d_model) and how it is cut.

    Attributes:
        keep_u: keep the scan input of a block between its two passes, instead of computing it twice.
        keep_proj: the same for the projections the scan reads; only with ``keep_u``.
    """

    height: int
    width: int
    d_model: int
    d_inner: int
    proj_width: int
    scan_lanes: int
    hidden: int
    strip_rows: int
    workers: int
    keep_u: bool
    keep_proj: bool
    dtype: torch.dtype

    @cached_property
    def ranges(self) -> list[RowRange]:
        """Rows of each worker."""
        return split_rows(self.height, parts=self.workers, strip_rows=self.strip_rows)

    @property
    def map_layout(self) -> Layout:
        """The residual map, and what is kept between the passes of a block."""
        layout = {"x": ((self.height, self.width, self.d_model), self.dtype)}
        if self.keep_u:
            layout["u"] = ((self.height, self.width, self.d_inner), self.dtype)
        if self.keep_proj:
            layout["proj"] = ((self.height, self.width, self.proj_width), torch.float32)
        return layout

    @property
    def worker_layout(self) -> Layout:
        """Scratch of one worker."""
        rows, width, inner = self.strip_rows, self.width, self.d_inner
        tokens = min(_CHUNK_TOKENS, (rows + 2) * width)
        return {
            "rows": ((rows + 2, width, inner), self.dtype),
            "u": ((0 if self.keep_u else rows, width, inner), self.dtype),
            "proj": ((0 if self.keep_proj else rows, width, self.proj_width), torch.float32),
            "y": ((rows, width, inner), torch.float32),
            "norm": ((tokens, max(self.d_model, inner)), self.dtype),
        }

    @property
    def chunk_tokens(self) -> int:
        """Tokens per matmul."""
        return _CHUNK_TOKENS

    @property
    def carry_bytes(self) -> int:
        """Transitions of the scan: backward directions have a slot per strip, forward ones per worker."""
        strips = sum(len(part.strips) for part in self.ranges)
        return 2 * 4 * self.scan_lanes * (self.width + 1) * (strips + self.workers)

    @property
    def transient_bytes(self) -> int:
        """What matmuls return before it is added to the map, all workers together."""
        return self.workers * _CHUNK_TOKENS * (self.hidden + 4 * max(self.d_model, self.d_inner)) * 4


@dataclass(frozen=True, kw_only=True)
class EncodePlan:
    """All stages of a region, and the memory they need."""

    stages: tuple[StagePlan, ...]
    height_px: int
    width_px: int

    @property
    def map_bytes(self) -> int:
        """The block the maps of all stages share."""
        single = max(layout_bytes(stage.map_layout) for stage in self.stages)
        # Where a downsampled map cannot take its own source's place, the two lie side by side.
        pairs = pairwise(self.stages)
        apart = [
            layout_bytes(_bare(a)) + layout_bytes(_bare(b)) for a, b in pairs if not shrinks_in_place(a, b)
        ]
        return max([single, *apart])

    @property
    def scratch_bytes(self) -> int:
        """Scratch of all workers."""
        return max(stage.workers * layout_bytes(stage.worker_layout) for stage in self.stages)

    @property
    def total_bytes(self) -> int:
        """Everything that encoding adds to the process, the region's own pixels not counted."""
        carries = max(stage.carry_bytes + stage.transient_bytes for stage in self.stages)
        conv = max(conv_bytes(stage) for stage in self.stages)
        return self.map_bytes + self.scratch_bytes + max(carries, conv) + _OVERHEAD_BYTES


def _bare(stage: StagePlan) -> Layout:
    return {"x": stage.map_layout["x"]}


def conv_bytes(stage: StagePlan) -> int:
    """Strips of the convolution that makes a stage's map: four inputs of half the width per output, and copies."""
    return stage.workers * _CONV_ROWS * stage.width * stage.d_model * 4 * 6


def conv_groups(target: StagePlan) -> list[list[tuple[int, int]]]:
    """Rows [first, last) of a map to be made, one strip per worker in each group; groups follow each other."""
    height, workers = target.height, target.workers
    strips = [(first, min(first + _CONV_ROWS, height)) for first in range(0, height, _CONV_ROWS)]
    return [strips[i : i + workers] for i in range(0, len(strips), workers)]


def shrinks_in_place(source: StagePlan, target: StagePlan) -> bool:
    """Whether a downsampled map can be written over its source, group by group.

    When the output rows up to b are written, all input from row 2b - 1 on must still be there.
    """
    wide_in, wide_out = source.width * source.d_model, target.width * target.d_model
    ends = [group[-1][1] for group in conv_groups(target)][:-1]
    fits = target.height * wide_out <= source.height * wide_in
    return fits and all(end * wide_out <= (2 * end - 1) * wide_in for end in ends)


def split_rows(height: int, *, parts: int, strip_rows: int) -> list[RowRange]:
    """Cut rows into as many contiguous ranges of nearly equal height as can be filled, at most ``parts``."""
    parts = max(1, min(parts, height))
    cuts = [height * i // parts for i in range(parts + 1)]
    pairs = pairwise(cuts)
    return [
        RowRange(first=first, last=last, strip_rows=min(strip_rows, last - first)) for first, last in pairs
    ]


def plan_encode(
    config: VMambaConfig,
    *,
    height_px: int,
    width_px: int,
    dtype: torch.dtype,
    workers: int,
    strip_rows: int | None = None,
) -> EncodePlan:
    """Plan the encoding of a region.

    Args:
        config: of the backbone.
        height_px: of the region; ``width_px`` likewise.
        width_px: of the region.
        dtype: the maps are kept in.
        workers: most threads to use.
        strip_rows: rows per strip in every stage; None chooses by cache size and memory.
    """
    shapes = stage_shapes(config, height_px=height_px, width_px=width_px)
    stages = [
        _plan_stage(config, i, shape, dtype=dtype, workers=workers, strip_rows=strip_rows)
        for i, shape in enumerate(shapes)
    ]
    plan = EncodePlan(stages=tuple(stages), height_px=height_px, width_px=width_px)
    # The block is as large as the largest map anyway; what smaller maps leave of it spares them recomputation.
    stages = [_with_kept(stage, plan.map_bytes) for stage in stages]
    return EncodePlan(stages=tuple(stages), height_px=height_px, width_px=width_px)


def _with_kept(stage: StagePlan, room: int) -> StagePlan:
    """Keep as much between the passes of a block as ``room`` bytes hold beside the map."""
    for keep_proj in (True, False):
        kept = replace(stage, keep_u=True, keep_proj=keep_proj)
        if layout_bytes(kept.map_layout) <= room:
            return kept
    return stage


def stage_shapes(config: VMambaConfig, *, height_px: int, width_px: int) -> list[tuple[int, int]]:
    """(height, width) in tokens of the map of each stage."""

    def stem(side: int) -> int:
        return side // 4 if config.patch_embed == 1 else _half(_half(side))

    shapes = [(stem(height_px), stem(width_px))]
    for _ in config.depths[1:]:
        height, width = shapes[-1]
        shapes.append((height // 2, width // 2) if config.downsample == 2 else (_half(height), _half(width)))
    return shapes


def _half(side: int) -> int:
    return (side + 1) // 2


def _plan_stage(
    config: VMambaConfig,
    stage: int,
    shape: tuple[int, int],
    *,
    dtype: torch.dtype,
    workers: int,
    strip_rows: int | None,
) -> StagePlan:
    height, width = shape
    d_inner = config.d_inner(stage)
    lanes = config.d_state * (-(-d_inner // 16) * 16)
    workers = max(1, min(workers, height, height * width // _TOKENS_PER_WORKER))
    if strip_rows is None:
        by_cache = _STRIP_BYTES // (width * d_inner * dtype.itemsize)
        # Strips too flat keep many states, strips too tall much scratch; with one state the cache decides.
        by_memory = isqrt(8 * config.d_state * height // (workers * (2 * dtype.itemsize + 4))) // 2
        strip_rows = max(4, by_cache, by_memory)
    return StagePlan(
        height=height,
        width=width,
        d_model=config.dims[stage],
        d_inner=d_inner,
        proj_width=4 * (config.dt_rank(stage) + 2 * config.d_state),
        scan_lanes=lanes,
        hidden=int(config.mlp_ratio * config.dims[stage]),
        strip_rows=max(1, min(strip_rows, height)),
        workers=workers,
        keep_u=False,
        keep_proj=False,
        dtype=dtype,
    )
