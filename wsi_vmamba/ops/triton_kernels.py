# Kernels are Triton, not Python: only compile-time arguments may carry annotations.
# mypy: disable-error-code="misc,untyped-decorator,no-untyped-call,no-untyped-def"
# ruff: noqa: ANN001, ANN201
"""Triton kernels of the four-direction scan: tile summaries, carries between tiles, outputs.

The map is cut into tiles of TH x TW tokens and BD channels; one program holds one tile in registers. Direction
0 walks rows, 1 columns, 2 and 3 are their reverses; a tile therefore cuts each row (column) into *segments*,
numbered in scan order. A segment turns an entering state ``h`` into ``exp(A * step) * h + state`` where
``step`` is the sum of its delta and ``state`` what it yields from nothing. Three passes:

1. `summary_kernel` writes ``step`` and ``state`` of every segment;
2. `chunk_kernel`, `carry_kernel`, `enter_kernel` turn ``state`` into the state that ENTERS each segment;
3. `apply_kernel` scans again from the entering states and writes the sum of the four directions once.

No exponent is ever positive (A < 0, delta >= 0), so nothing overflows; products that underflow are states
that have decayed. Every offset into a map or into scratch is 64-bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wsi_vmamba.ops.triton_tiles import (
    MAP_STRIDES,
    border_of,
    decay_rate,
    follow,
    is_border,
    lane_axes,
    load_column,
    load_low_rank,
    load_map,
    load_weight,
    segments_of_tile,
    softplus,
    tile_position,
    token_axes,
    token_offset,
    turn,
)


@triton.jit(do_not_specialize_on_alignment=MAP_STRIDES)
def summary_kernel(
    u_ptr, gy_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, step_ptr, state_ptr, adjoint_ptr,
    height, width, channels, rank, packed, first_channel, group, tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, gy_stride_b, gy_stride_h, gy_stride_w,
    proj_stride_b, proj_stride_h, proj_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    VEC: tl.constexpr, PACK: tl.constexpr, PRECISION: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Write the sum of delta and the state from nothing of each segment of a tile, four directions.

    ADJOINT also writes what the output gradients ``gy`` of a segment send back to the token before it.
    """
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    top, left, start = tile_row * TH, tile_column * TW, first_channel + block * BD
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC) + start
    gy_ptr += token_offset(batch, top, left, gy_stride_b * VEC, gy_stride_h * VEC, gy_stride_w * VEC) + start
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    some = tl.arange(0, BD)
    for p in tl.static_range(2):
        row, column = token_axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        row, column, lane = lane_axes(p, TH, TW, BD)
        slot = block * BD + lane
        lane_ok = slot < group
        valid = (top + row < height) & (left + column < width) & lane_ok[None, :]
        u = load_map(u_ptr + lane, row, column, u_stride_h * VEC, u_stride_w * VEC, valid)
        if ADJOINT:
            gy = load_map(gy_ptr + lane, row, column, gy_stride_h * VEC, gy_stride_w * VEC, valid)
        for k in tl.static_range(p, 4, 2):
            first = k * packed * PACK
            low = load_low_rank(proj_ptr, token, inside, first, packed, RP, PACK)
            weight = load_weight(weight_ptr, start + some, block * BD + some < group, channels, rank, k, RP)
            bias = tl.load(bias_ptr + k * channels + start + lane, mask=lane_ok, other=0.0)
            z = tl.reshape(tl.dot(low, weight, input_precision=PRECISION), u.shape) + bias[None, :]
            delta = tl.where(valid, softplus(z), 0.0)
            segment, exists = segments_of_tile(
                batch, tile_row, tile_column, height, width, tiles_h, tiles_w, group, k, TH, TW, BD
            )
            mask = exists & lane_ok
            tl.store(step_ptr + segment + slot, tl.sum(delta, axis=0), mask=mask)
            for n in range(N):
                rate = decay_rate(a_logs_ptr, start + lane, lane_ok, channels, k, n, N)
                place = segment * N + n * group + slot
                B = load_column(proj_ptr, token, inside, first + rank + n, BD)
                decay = tl.exp2(delta * rate[None, :])
                _, h = tl.associative_scan((decay, u * delta * B), 0, follow, reverse=k >= 2)
                tl.store(state_ptr + place, border_of(h, False, k), mask=mask)
                if ADJOINT:
                    C = load_column(proj_ptr, token, inside, first + rank + N + n, BD)
                    _, sent = tl.associative_scan((decay, gy * decay * C), 0, follow, reverse=k < 2)
                    tl.store(adjoint_ptr + place, border_of(sent, True, k), mask=mask)


@triton.jit
def direction_span(k, length_rows, length_columns):
    """First segment and number of segments of direction ``k`` within a batch entry, in 64 bits."""
    rows = tl.cast(length_rows, tl.int64)
    columns = tl.cast(length_columns, tl.int64)
    is_column = tl.cast(k % 2, tl.int64)
    count = rows + is_column * (columns - rows)
    return 2 * rows * is_column + (k // 2) * count, count


@triton.jit
def advance(step, state, carry, rate, STEPS: tl.constexpr):
    """States (STEPS, BD) after each of STEPS segments that follow on the state ``carry`` (BD,), and the last one."""
    row = tl.arange(0, STEPS)[:, None]
    decay = tl.exp2(step * rate[None, :])
    state = tl.where(row == 0, state + decay * carry[None, :], state)
    _, h = tl.associative_scan((decay, state), 0, follow)
    return h, tl.sum(tl.where(row == STEPS - 1, h, 0.0), axis=0)


@triton.jit
def chunk_kernel(
    step_ptr, state_ptr, a_logs_ptr, chunk_step_ptr, chunk_state_ptr,
    length_rows, length_columns, channels, first_channel, group, chunks, chunk_length, channel_blocks,
    N: tl.constexpr, BD: tl.constexpr, STEPS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Compose the segments of one chunk into one summary; REVERSE walks against the scan order (gradients)."""
    chunk = tl.program_id(0) // channel_blocks
    slot = tl.program_id(0) % channel_blocks * BD + tl.arange(0, BD)
    ok = slot < group
    k = tl.program_id(1) // N
    n = tl.program_id(1) % N
    batch = tl.cast(tl.program_id(2), tl.int64)
    rate = decay_rate(a_logs_ptr, first_channel + slot, ok, channels, k, n, N)
    base, count = direction_span(k, length_rows, length_columns)
    base += batch * 2 * (tl.cast(length_rows, tl.int64) + length_columns)
    begin = tl.cast(chunk, tl.int64) * chunk_length
    total = tl.zeros((BD,), tl.float32)
    carry = tl.zeros((BD,), tl.float32)
    for i in range(0, chunk_length, STEPS):
        s = begin + i + tl.arange(0, STEPS)[:, None]
        mask = (s < count) & ok[None, :]
        where = (base + (count - 1 - s if REVERSE else s)) * group
        step = tl.load(step_ptr + where + slot[None, :], mask=mask, other=0.0)
        state = tl.load(state_ptr + where * N + n * group + slot[None, :], mask=mask, other=0.0)
        total += tl.sum(step, axis=0)
        _, carry = advance(step, state, carry, rate, STEPS)
    place = ((batch * 4 + k) * chunks + chunk) * group
    if n == 0:
        tl.store(chunk_step_ptr + place + slot, total, mask=ok)
    tl.store(chunk_state_ptr + place * N + n * group + slot, carry, mask=ok)


@triton.jit
def carry_kernel(
    chunk_step_ptr, chunk_state_ptr, a_logs_ptr, channels, first_channel, group, chunks,
    N: tl.constexpr, BD: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Replace the state each chunk yields by the state that enters it, walking over the chunks."""
    slot = tl.program_id(0) * BD + tl.arange(0, BD)
    ok = slot < group
    k = tl.program_id(1) // N
    n = tl.program_id(1) % N
    rate = decay_rate(a_logs_ptr, first_channel + slot, ok, channels, k, n, N)
    base = (tl.cast(tl.program_id(2), tl.int64) * 4 + k) * chunks
    carry = tl.zeros((BD,), tl.float32)
    for i in range(0, chunks, STEPS):
        chunk = i + tl.arange(0, STEPS)[:, None]
        mask = (chunk < chunks) & ok[None, :]
        place = (base + chunk) * group
        step = tl.load(chunk_step_ptr + place + slot[None, :], mask=mask, other=0.0)
        state_ptrs = chunk_state_ptr + place * N + n * group + slot[None, :]
        state = tl.load(state_ptrs, mask=mask, other=0.0)
        h, last = advance(step, state, carry, rate, STEPS)
        tl.debug_barrier()  # every state has been read before one is overwritten
        tl.store(state_ptrs, carry[None, :], mask=mask & (chunk == i))
        next_ptrs = state_ptrs + tl.cast(group, tl.int64) * N
        tl.store(next_ptrs, h, mask=mask & (chunk + 1 < tl.minimum(chunks, i + STEPS)))
        carry = last


@triton.jit
def enter_kernel(
    step_ptr, state_ptr, a_logs_ptr, chunk_state_ptr,
    length_rows, length_columns, channels, first_channel, group, chunks, chunk_length, channel_blocks,
    N: tl.constexpr, BD: tl.constexpr, STEPS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace, within one chunk, the state each segment yields by the state that enters it."""
    chunk = tl.program_id(0) // channel_blocks
    slot = tl.program_id(0) % channel_blocks * BD + tl.arange(0, BD)
    ok = slot < group
    k = tl.program_id(1) // N
    n = tl.program_id(1) % N
    batch = tl.cast(tl.program_id(2), tl.int64)
    rate = decay_rate(a_logs_ptr, first_channel + slot, ok, channels, k, n, N)
    base, count = direction_span(k, length_rows, length_columns)
    base += batch * 2 * (tl.cast(length_rows, tl.int64) + length_columns)
    place = ((batch * 4 + k) * chunks + chunk) * group
    carry = tl.load(chunk_state_ptr + place * N + n * group + slot, mask=ok, other=0.0)
    begin = tl.cast(chunk, tl.int64) * chunk_length
    for i in range(0, chunk_length, STEPS):
        s = begin + i + tl.arange(0, STEPS)[:, None]
        mask = (s < count) & ok[None, :]
        where = (base + (count - 1 - s if REVERSE else s)) * group
        step = tl.load(step_ptr + where + slot[None, :], mask=mask, other=0.0)
        state_ptrs = state_ptr + where * N + n * group + slot[None, :]
        state = tl.load(state_ptrs, mask=mask, other=0.0)
        h, last = advance(step, state, carry, rate, STEPS)
        tl.debug_barrier()  # every state has been read before one is overwritten
        tl.store(state_ptrs, carry[None, :], mask=mask & (s == begin + i))
        stride = tl.cast(group, tl.int64) * N
        next_ptrs = state_ptrs - stride if REVERSE else state_ptrs + stride
        tl.store(next_ptrs, h, mask=mask & (s + 1 < tl.minimum(count, begin + i + STEPS)))
        carry = last


@triton.jit(do_not_specialize_on_alignment=MAP_STRIDES)
def apply_kernel(
    u_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, skip_ptr, enter_ptr, y_ptr,
    height, width, channels, rank, packed, first_channel, group, tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, proj_stride_b, proj_stride_h, proj_stride_w,
    y_stride_b, y_stride_h, y_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    VEC: tl.constexpr, PACK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scan a tile in four directions from the entering states and write the sum, skip included."""
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    top, left, start = tile_row * TH, tile_column * TW, first_channel + block * BD
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC) + start
    y_ptr += token_offset(batch, top, left, y_stride_b * VEC, y_stride_h * VEC, y_stride_w * VEC) + start
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    some = tl.arange(0, BD)
    y = tl.zeros((TH, TW * BD), tl.float32)
    for p in tl.static_range(2):
        row, column = token_axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        row, column, lane = lane_axes(p, TH, TW, BD)
        slot = block * BD + lane
        lane_ok = slot < group
        valid = (top + row < height) & (left + column < width) & lane_ok[None, :]
        u = load_map(u_ptr + lane, row, column, u_stride_h * VEC, u_stride_w * VEC, valid)
        skip = tl.load(skip_ptr + p * channels + start + lane, mask=lane_ok, other=0.0)
        skip += tl.load(skip_ptr + (p + 2) * channels + start + lane, mask=lane_ok, other=0.0)
        part = u * skip[None, :]
        for k in tl.static_range(p, 4, 2):
            first = k * packed * PACK
            low = load_low_rank(proj_ptr, token, inside, first, packed, RP, PACK)
            weight = load_weight(weight_ptr, start + some, block * BD + some < group, channels, rank, k, RP)
            bias = tl.load(bias_ptr + k * channels + start + lane, mask=lane_ok, other=0.0)
            z = tl.reshape(tl.dot(low, weight, input_precision=PRECISION), u.shape) + bias[None, :]
            delta = tl.where(valid, softplus(z), 0.0)
            segment, exists = segments_of_tile(
                batch, tile_row, tile_column, height, width, tiles_h, tiles_w, group, k, TH, TW, BD
            )
            for n in range(N):
                rate = decay_rate(a_logs_ptr, start + lane, lane_ok, channels, k, n, N)
                B = load_column(proj_ptr, token, inside, first + rank + n, BD)
                C = load_column(proj_ptr, token, inside, first + rank + N + n, BD)
                enter = tl.load(enter_ptr + segment * N + n * group + slot, mask=exists & lane_ok, other=0.0)
                decay = tl.exp2(delta * rate[None, :])
                drive = u * delta * B
                drive = tl.where(is_border(True, k, u.shape[0]), drive + decay * enter[None, :], drive)
                _, h = tl.associative_scan((decay, drive), 0, follow, reverse=k >= 2)
                part += h * C
        y += turn(part, TH, TW, BD) if p == 0 else part
    row, column, lane = lane_axes(1, TH, TW, BD)
    valid = (top + row < height) & (left + column < width) & (block * BD + lane < group)[None, :]
    place = token_offset(0, row, column, 0, y_stride_h * VEC, y_stride_w * VEC) + lane[None, :]
    tl.debug_barrier()  # the map may be written over: every thread has read its part of the tile
    tl.store(y_ptr + place, y, mask=valid)
