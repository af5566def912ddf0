"""How a map that passes through a GPU is cut into strips, and what that takes: pure arithmetic.

Strips are as tall as a fixed share of memory holds, so that most GPUs cut a map in the same places (sums are rounded
where it is cut), and flatter only where less is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from wsi_vmamba.errors import MemoryLimitError
from wsi_vmamba.inference.memory import Layout, layout_bytes
from wsi_vmamba.inference.plan import CONV_ROWS, EncodePlan, RowRange, StagePlan, plan_encode
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.ops.triton_plan import make_plan

#: What belongs to a strip takes so much, or as much as the states beside it, where that is free: kernels are full by
#: then, and what goes to and fro of states is little beside what does of the map.
STRIP_TARGET_BYTES = 2 << 30
#: Bytes of the widest intermediate of the tokens that pass through norms, projections and MLP at once.
_CHUNK_BYTES = 64 << 20
#: Rows of states, float32, of one block that are on the device at once: both ways, on their way in and out, combined.
_STATE_ROWS = 20
#: The same in page-locked memory.
_HOST_STATE_ROWS = 8


def plan_sweep(
    config: VMambaConfig,
    *,
    height_px: int,
    width_px: int,
    dtype: torch.dtype,
    free_bytes: int,
    strip_rows: Sequence[int] | None = None,
) -> EncodePlan:
    """Cut the maps of a region into strips.

    Args:
        config: of the backbone.
        height_px: of the region.
        width_px: likewise.
        dtype: of the maps.
        free_bytes: of the device.
        strip_rows: rows of a strip in each stage, where that is decided already.

    Raises:
        MemoryLimitError: strips of those rows, or of one row, are too large.
    """
    plan = plan_encode(config, height_px=height_px, width_px=width_px, dtype=dtype, workers=1)
    stages = []
    for i, stage in enumerate(plan.stages):
        rows = _choose_rows(stage, config.d_state, free_bytes) if strip_rows is None else strip_rows[i]
        stages.append(_with_strips(stage, rows))
    planned = replace(plan, stages=tuple(stages))
    needed = device_bytes(planned, d_state=config.d_state)
    if needed > free_bytes:
        raise MemoryLimitError(
            f"a region of {width_px} x {height_px} px needs {needed / 1e9:.1f} GB of device memory even in strips, but "
            f"{max(free_bytes, 0) / 1e9:.1f} GB are left; use a smaller --region-px, --precision bf16, a higher "
            "--memory-limit-gb, or --device cpu"
        )
    return planned


def device_bytes(plan: EncodePlan, *, d_state: int) -> int:
    """Device memory of a pass, weights not counted: it follows the width of the region and the height of strips."""
    stages = [
        _strip_bytes(stage, stage.strip_rows, d_state) + _states_bytes(stage, d_state)
        for stage in plan.stages
    ]
    return max([*stages, _conv_bytes(plan)])


def host_bytes(plan: EncodePlan, *, d_state: int) -> int:
    """Page-locked memory of a pass, and what it takes besides."""
    each = []
    for stage in plan.stages:
        strips = 2 * layout_bytes(map_layout(stage)) + 2 * layout_bytes(finished_layout(stage))
        each.append(strips + _HOST_STATE_ROWS * _state_row_bytes(stage, d_state))
    return max(each)


def map_layout(stage: StagePlan) -> Layout:
    """Rows of a strip of the map and the one below, as they come."""
    return {"x": ((stage.strip_rows + 1, stage.width, stage.d_model), stage.dtype)}


def finished_layout(stage: StagePlan) -> Layout:
    """What goes back for each strip, without the states."""
    return {
        "x": ((stage.strip_rows, stage.width, stage.d_model), stage.dtype),
        "beside": ((2, stage.width, stage.d_inner), stage.dtype),
    }


def scratch_layout(stage: StagePlan, *, scratch_width: int) -> Layout:
    """Scratch of a block, see `BlockRun`; ``scratch_width`` is that of its steps."""
    return _scratch_layout(stage, stage.strip_rows, scratch_width)


def _scratch_layout(stage: StagePlan, rows: int, scratch_width: int) -> Layout:
    width, inner, dtype = stage.width, stage.d_inner, stage.dtype
    at_once = max(1, _CHUNK_BYTES // (scratch_width * dtype.itemsize))
    return {
        "rows": ((rows + 2, width, inner), dtype),
        "u": ((rows, width, inner), dtype),
        "proj": ((rows, width, stage.proj_width), dtype),
        "norm": ((min((rows + 2) * width, at_once), scratch_width), dtype),
    }


def _with_strips(stage: StagePlan, rows: int) -> StagePlan:
    whole = RowRange(first=0, last=stage.height, strip_rows=max(1, min(rows, stage.height)))
    return replace(stage, ranges=(whole,), workers=1, keep_u=False, keep_proj=False)


def _choose_rows(stage: StagePlan, d_state: int, free_bytes: int) -> int:
    """Rows of strips of nearly equal height, the fewest strips that fit."""
    states = _states_bytes(stage, d_state)
    room = min(max(STRIP_TARGET_BYTES, states), free_bytes - states)
    low, high = 1, max(1, stage.height)
    while low < high:  # the tallest strip that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _strip_bytes(stage, middle, d_state) <= room else (low, middle - 1)
    return -(-stage.height // -(-stage.height // low))


def _strip_bytes(stage: StagePlan, rows: int, d_state: int) -> int:
    item, width = stage.dtype.itemsize, stage.width
    # A gated block's scratch holds its gate, others' the hidden layer.
    widths = max(stage.d_model, stage.d_inner) + max(stage.hidden, stage.d_inner)
    scan = make_plan(
        batch=1,
        height=rows,
        width=width,
        channels=stage.d_inner,
        rank=stage.proj_width // 4 - 2 * d_state,
        state=d_state,
    )
    on_the_way = 4 * (rows + 1) * width * stage.d_model * item  # two strips in, two out
    beside = 6 * width * stage.d_inner * item
    return layout_bytes(_scratch_layout(stage, rows, widths)) + scan.scratch_bytes + on_the_way + beside


def _states_bytes(stage: StagePlan, d_state: int) -> int:
    strips_on_their_way_up = (
        2 * stage.height * d_state * stage.d_inner * 4
    )  # one chain each; a strip a row at worst
    return _STATE_ROWS * _state_row_bytes(stage, d_state) + strips_on_their_way_up


def _state_row_bytes(stage: StagePlan, d_state: int) -> int:
    exact = torch.promote_types(stage.dtype, torch.float32)
    return stage.width * stage.d_inner * d_state * exact.itemsize


def _conv_bytes(plan: EncodePlan) -> int:
    """Stem and downsampling, `CONV_ROWS` rows at a time: pixels in float32, four copies of the map before."""
    first = plan.stages[0]
    stem = (4 * CONV_ROWS + 8) * plan.width_px * 3 * (1 + 4 + 4)
    most = max(stage.width * stage.d_model for stage in plan.stages)
    return stem + 4 * (2 * CONV_ROWS + 2) * max(most, first.width * first.d_model) * first.dtype.itemsize
