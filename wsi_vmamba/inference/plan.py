"""How a region is cut into strips and what that takes in memory: pure arithmetic, nothing is allocated here.

Where a map is cut follows from its size alone, never from the number of threads: sums are rounded where it is cut,
and the features of a slide must not depend on the machine that was free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isqrt

import torch

from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.model.config import VMambaConfig

#: Scan input of one strip; a few times this is touched per strip, which should stay in a shared cache.
_STRIP_BYTES = 8 << 20
#: Threads whose scratch is weighed against the states of strips.
_WORKERS_PLANNED = 2
#: Tokens from which a map is cut into how many ranges of rows, which threads take in turn. Each costs the memory of
#: two rows and of one scan state per column, and the time of projecting two rows more and of one summary. Many
#: numbers of threads divide 24; small maps can only be divided among few threads.
_RANGES = ((1 << 20, 24), (1 << 18, 16), (1 << 15, 8), (1 << 12, 4), (1 << 9, 2))
#: With more than one state per channel, ranges cost as much more memory: so many, and no more.
_RANGES_OF_STATES = 4
#: Fewest rows of a range.
_ROWS_PER_RANGE = 8
#: Tokens that pass through norm, projections and MLP at once: wide layers want more of them per matmul.
_CHUNK_TOKENS = 2048
#: Tokens whose gate is kept between two fused kernels.
GATED_TOKENS = 4 * _CHUNK_TOKENS
#: Matmuls work on so many tokens at a time.
_VECTOR_TOKENS = 64
#: Rows of output per worker and step of the stem and of downsampling.
CONV_ROWS = 8
#: Maps may take so much, where the machine has it, to spare computing a scan input twice: 4 to 8 % of the time of
#: `vmamba_pico`.
SPARE_BYTES = 512 << 20
#: Interpreter, torch, packed weights' copies and library workspaces that no layout lists.
OVERHEAD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """The rows [first, last) that one worker handles at a time, in strips of ``strip_rows``, the last perhaps fewer."""

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
        ranges: rows that a worker takes at a time.
        workers: how many work at once.
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
    ranges: tuple[RowRange, ...]
    workers: int
    keep_u: bool
    keep_proj: bool
    dtype: torch.dtype

    @property
    def strip_rows(self) -> int:
        """Rows of the tallest strip."""
        return max(part.strip_rows for part in self.ranges)

    @property
    def map_layout(self) -> Layout:
        """The residual map, and what is kept between the passes of a block."""
        return self.layout_of(self.height, self.width)

    def layout_of(self, *places: int) -> Layout:
        """`map_layout` of a map of tokens in these places."""
        layout = {"x": ((*places, self.d_model), self.dtype)}
        if self.keep_u:
            layout["u"] = ((*places, self.d_inner), self.dtype)
        if self.keep_proj:
            layout["proj"] = ((*places, self.proj_width), torch.float32)
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
    def carry_bytes(self) -> int:
        """Transitions of the scan: backward directions have a slot per strip, forward ones per range."""
        strips = sum(len(part.strips) for part in self.ranges)
        return 2 * 4 * self.scan_lanes * (self.width + 1) * (strips + len(self.ranges))

    @property
    def border_bytes(self) -> int:
        """The two projected rows beside each range."""
        return 2 * len(self.ranges) * self.width * self.d_inner * self.dtype.itemsize

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
        carries = max(stage.carry_bytes + stage.border_bytes + stage.transient_bytes for stage in self.stages)
        conv = max(conv_bytes(stage) for stage in self.stages)
        return self.map_bytes + self.scratch_bytes + max(carries, conv) + OVERHEAD_BYTES


def _bare(stage: StagePlan) -> Layout:
    return {"x": stage.map_layout["x"]}


def conv_bytes(stage: StagePlan) -> int:
    """Strips of the convolution that makes a stage's map: four inputs of half the width per output, and copies."""
    return stage.workers * CONV_ROWS * stage.width * stage.d_model * 4 * 6


def conv_groups(target: StagePlan, rows: int = CONV_ROWS) -> list[list[tuple[int, int]]]:
    """Strips [first, last) of ``rows`` of a map to be made, one per worker in each group; groups follow each other."""
    height, workers = target.height, target.workers
    strips = [(first, min(first + rows, height)) for first in range(0, height, rows)]
    return [strips[i : i + workers] for i in range(0, len(strips), workers)]


def shrinks_in_place(source: StagePlan, target: StagePlan) -> bool:
    """Whether a downsampled map can be written over its source, group by group.

    When the output rows up to b are written, all input from row 2b - 1 on must still be there.
    """
    wide_in, wide_out = source.width * source.d_model, target.width * target.d_model
    ends = [group[-1][1] for group in conv_groups(target)][:-1]
    fits = target.height * wide_out <= source.height * wide_in
    return fits and all(end * wide_out <= (2 * end - 1) * wide_in for end in ends)


def split_rows(height: int, *, parts: int, strip_rows: int) -> tuple[RowRange, ...]:
    """Cut rows into as many contiguous ranges of nearly equal height as can be filled, at most ``parts``.

    The strips of a range are of nearly equal height too, as near to ``strip_rows`` as that allows.
    """
    parts = max(1, min(parts, height))
    cuts = [height * i // parts for i in range(parts + 1)]
    return tuple(
        RowRange(first=first, last=last, strip_rows=_even(last - first, strip_rows))
        for first, last in pairwise(cuts)
    )


def _even(rows: int, about: int) -> int:
    """Rows per strip such that the last strip is not a remnant."""
    strips = max(1, round(rows / about))
    return max(1, -(-rows // strips))


def count_ranges(*, height: int, width: int, d_state: int) -> int:
    """Into how many ranges a map of tokens is cut; states cost memory per range."""
    by_tokens = next((count for tokens, count in _RANGES if height * width >= tokens), 1)
    by_memory = by_tokens if d_state == 1 else min(by_tokens, _RANGES_OF_STATES)
    return max(1, min(height // _ROWS_PER_RANGE, by_memory))


def chunks(tokens: int, most: int = _CHUNK_TOKENS) -> Iterator[slice]:
    """Cut tokens into equal parts of at most about ``most``: whole vectors of a matmul, and no remnant at the end."""
    vectors = -(-tokens // _VECTOR_TOKENS)
    parts = max(1, -(-tokens // most))
    each = max(1, -(-vectors // parts)) * _VECTOR_TOKENS
    return (slice(start, min(start + each, tokens)) for start in range(0, tokens, each))


def plan_encode(
    config: VMambaConfig,
    *,
    height_px: int,
    width_px: int,
    dtype: torch.dtype,
    workers: int,
    strip_rows: int | None = None,
    spare_bytes: int = 0,
) -> EncodePlan:
    """Plan the encoding of a region.

    Args:
        config: of the backbone.
        height_px: of the region; ``width_px`` likewise.
        width_px: of the region.
        dtype: the maps are kept in.
        workers: most threads to use; it changes what is held in memory, not where maps are cut.
        strip_rows: rows per strip in every stage; None chooses by cache size and memory.
        spare_bytes: that the block of maps may be large to keep more between the passes; results do not depend on it.
    """
    shapes = stage_shapes(config, height_px=height_px, width_px=width_px)
    stages = [
        _plan_stage(config, i, shape, dtype=dtype, workers=workers, strip_rows=strip_rows)
        for i, shape in enumerate(shapes)
    ]
    plan = EncodePlan(stages=tuple(stages), height_px=height_px, width_px=width_px)
    # The block is as large as the largest map anyway; what smaller maps leave of it spares them recomputation.
    room = max(plan.map_bytes, spare_bytes)
    stages = [with_kept(stage, room, stage.height, stage.width) for stage in stages]
    return EncodePlan(stages=tuple(stages), height_px=height_px, width_px=width_px)


def with_kept(stage: StagePlan, room: int, *places: int) -> StagePlan:
    """Keep as much between the passes of a block as ``room`` bytes hold beside a map of tokens in these places."""
    for keep_proj in (True, False):
        kept = replace(stage, keep_u=True, keep_proj=keep_proj)
        if layout_bytes(kept.layout_of(*places)) <= room:
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
    if strip_rows is None:
        by_cache = _STRIP_BYTES // max(1, width * d_inner * dtype.itemsize)
        # Strips too flat keep many states, strips too tall much scratch; with one state the cache decides.
        by_memory = isqrt(8 * config.d_state * height // (_WORKERS_PLANNED * (2 * dtype.itemsize + 4))) // 2
        strip_rows = max(4, by_cache, by_memory)
    parts = count_ranges(height=height, width=width, d_state=config.d_state)
    ranges = split_rows(height, parts=parts, strip_rows=strip_rows)
    return StagePlan(
        height=height,
        width=width,
        d_model=config.dims[stage],
        d_inner=d_inner,
        proj_width=4 * (config.dt_rank(stage) + 2 * config.d_state),
        scan_lanes=lanes,
        hidden=int(config.mlp_ratio * config.dims[stage]),
        ranges=ranges,
        workers=max(1, min(workers, len(ranges))),
        keep_u=False,
        keep_proj=False,
        dtype=dtype,
    )
