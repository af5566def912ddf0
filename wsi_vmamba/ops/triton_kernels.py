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

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def token_offset(batch, row, column, stride_b, stride_h, stride_w):
    """Offset of a token in elements, in 64 bits whatever the types of the arguments."""
    wide_batch = tl.cast(batch, tl.int64)
    wide_row = tl.cast(row, tl.int64)
    wide_column = tl.cast(column, tl.int64)
    return wide_batch * stride_b + wide_row * stride_h + wide_column * stride_w


@triton.jit
def segment_offset(batch, index, length_rows, length_columns, slots, K: tl.constexpr):
    """Offset of segment ``index`` (in map order) of direction K in a scratch array (batch, segment, slots).

    One batch entry holds the segments of directions 0, 2, 1, 3; the reverses are stored in scan order.
    """
    lengths = 2 * (tl.cast(length_rows, tl.int64) + tl.cast(length_columns, tl.int64))
    base = tl.cast(batch, tl.int64) * lengths
    position = tl.cast(index, tl.int64)
    if K == 1:
        base += 2 * tl.cast(length_rows, tl.int64)
    elif K == 2:
        base += length_rows
        position = length_rows - 1 - position
    elif K == 3:
        base += 2 * tl.cast(length_rows, tl.int64) + length_columns
        position = length_columns - 1 - position
    return (base + position) * slots


@triton.jit
def softplus(z):
    """log(1 + exp(z)) for float32, to 2e-7 of its value however small."""
    small = tl.exp2(-tl.abs(z) * LOG2E)
    # log(1 + x) / x on [0, 1], minimax: keeps small steps exact and spares the special-function unit.
    p = 0.0052326880395412445 * small - 0.029505213722586632
    p = p * small + 0.07822591066360474
    p = p * small - 0.13663242757320404
    p = p * small + 0.19106005132198334
    p = p * small - 0.2484298199415207
    p = p * small + 0.3331909775733948
    p = p * small - 0.4999949336051941
    p = p * small + 0.9999999403953552
    return tl.maximum(z, 0.0) + p * small


@triton.jit
def follow(decay_1, state_1, decay_2, state_2):
    """Compose two steps of ``h -> decay * h + state``: first 1, then 2."""
    return decay_1 * decay_2, decay_2 * state_1 + state_2


@triton.jit
def tile_position(tiles_h, tiles_w, channel_blocks):
    """Split the program number into (batch, tile row, tile column, channel block), the last one fastest."""
    program = tl.program_id(0)
    block = program % channel_blocks
    tile = program // channel_blocks
    return tile // (tiles_w * tiles_h), tile // tiles_w % tiles_h, tile % tiles_w, block


@triton.jit
def step_logits(
    low, weight_ptr, bias_ptr, channel, channel_ok, channels, rank,
    K: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Step sizes of a tile before softplus, (TH, TW, BD): the dt-projection as one matrix product."""
    r = tl.arange(0, RP)
    row = K * channels + channel
    weight = tl.load(
        weight_ptr + row[None, :] * rank + r[:, None],
        mask=channel_ok[None, :] & (r < rank)[:, None],
        other=0.0,
    )
    bias = tl.load(bias_ptr + row, mask=channel_ok, other=0.0)
    z = tl.dot(tl.reshape(low, (TH * TW, RP)), weight, input_precision=PRECISION)
    return tl.reshape(z, (TH, TW, BD)) + bias[None, None, :]


@triton.jit
def load_low_rank(
    proj_ptr, token, inside, rank, first, RP: tl.constexpr
):  # fmt: skip
    """The low-rank step inputs of a tile, (TH, TW, RP) in float32, zero beyond ``rank`` and off the map."""
    r = tl.arange(0, RP)
    mask = inside[:, :, None] & (r < rank)[None, None, :]
    return tl.load(proj_ptr + token[:, :, None] + (first + r)[None, None, :], mask=mask, other=0.0).to(
        tl.float32
    )


@triton.jit
def decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N):
    """A = -exp(A_logs) of state ``n``, times log2(e), for a block of channels."""
    a_log = tl.load(a_logs_ptr + (k * channels + channel) * N + n, mask=channel_ok, other=0.0)
    return -tl.exp2(a_log * LOG2E) * LOG2E


@triton.jit
def segments_of_tile(
    batch, tile_row, tile_column, row, column, height, width,
    tiles_h, tiles_w, slots, K: tl.constexpr,
):  # fmt: skip
    """Scratch offsets of the segments that direction K cuts through a tile, and which of them exist."""
    length_rows = tl.cast(height, tl.int64) * tiles_w
    length_columns = tl.cast(width, tl.int64) * tiles_h
    if K % 2 == 0:
        index = tl.cast(row, tl.int64) * tiles_w + tile_column
        exists = row < height
    else:
        index = tl.cast(column, tl.int64) * tiles_h + tile_row
        exists = column < width
    return segment_offset(batch, index, length_rows, length_columns, slots, K), exists


@triton.jit
def at_border(values, FIRST: tl.constexpr, K: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Spread one value per segment over a tile: zero but at the first (else the last) token of direction K."""
    spread = tl.expand_dims(values, 1 - K % 2)
    if K % 2 == 0:
        along = tl.arange(0, TW)[None, :, None]
        last = TW - 1
    else:
        along = tl.arange(0, TH)[:, None, None]
        last = TH - 1
    return tl.where(along == (0 if (K < 2) == FIRST else last), spread, 0.0)


@triton.jit
def summary_kernel(
    u_ptr, gy_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, step_ptr, state_ptr, adjoint_ptr,
    height, width, channels, rank, first_channel, group,
    tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, gy_stride_b, gy_stride_h, gy_stride_w,
    proj_stride_b, proj_stride_h, proj_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    PRECISION: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Write the sum of delta and the state from nothing of each segment of a tile, four directions.

    ADJOINT also writes what the output gradients ``gy`` of a segment send back to the token before it.
    """
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    row = tile_row * TH + tl.arange(0, TH)
    column = tile_column * TW + tl.arange(0, TW)
    slot = tl.cast(block * BD + tl.arange(0, BD), tl.int64)
    channel = first_channel + slot
    channel_ok = slot < group
    inside = (row < height)[:, None] & (column < width)[None, :]
    valid = inside[:, :, None] & channel_ok[None, None, :]
    u_token = token_offset(batch, row[:, None], column[None, :], u_stride_b, u_stride_h, u_stride_w)
    token = token_offset(batch, row[:, None], column[None, :], proj_stride_b, proj_stride_h, proj_stride_w)
    u = tl.load(u_ptr + u_token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(tl.float32)
    if ADJOINT:
        gy_token = token_offset(batch, row[:, None], column[None, :], gy_stride_b, gy_stride_h, gy_stride_w)
        gy = tl.load(gy_ptr + gy_token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(
            tl.float32
        )
    for k in tl.static_range(4):
        first = k * (rank + 2 * N)
        low = load_low_rank(proj_ptr, token, inside, rank, first, RP)
        z = step_logits(
            low, weight_ptr, bias_ptr, channel, channel_ok, channels, rank, k, TH, TW, BD, RP, PRECISION
        )
        delta = tl.where(valid, softplus(z), 0.0)
        segment, exists = segments_of_tile(
            batch, tile_row, tile_column, row, column, height, width, tiles_h, tiles_w, group, k
        )
        mask = exists[:, None] & channel_ok[None, :]
        tl.store(step_ptr + segment[:, None] + slot[None, :], tl.sum(delta, axis=1 - k % 2), mask=mask)
        # What a token adds decays over the tokens after it, in the direction of the walk.
        after = tl.cumsum(delta, axis=1 - k % 2, reverse=k < 2) - delta
        drive = delta * u
        if ADJOINT:
            until = tl.cumsum(delta, axis=1 - k % 2, reverse=k >= 2)
        for n in range(N):
            rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)
            B = tl.load(proj_ptr + token + (first + rank + n), mask=inside, other=0.0).to(tl.float32)
            state = tl.sum(tl.exp2(after * rate[None, None, :]) * drive * B[:, :, None], axis=1 - k % 2)
            tl.store(state_ptr + segment[:, None] * N + n * group + slot[None, :], state, mask=mask)
            if ADJOINT:
                C = tl.load(proj_ptr + token + (first + rank + N + n), mask=inside, other=0.0).to(tl.float32)
                sent = tl.sum(tl.exp2(until * rate[None, None, :]) * gy * C[:, :, None], axis=1 - k % 2)
                tl.store(adjoint_ptr + segment[:, None] * N + n * group + slot[None, :], sent, mask=mask)


@triton.jit
def direction_span(k, length_rows, length_columns):
    """First segment and number of segments of direction ``k`` within a batch entry, in 64 bits."""
    rows = tl.cast(length_rows, tl.int64)
    columns = tl.cast(length_columns, tl.int64)
    is_column = tl.cast(k % 2, tl.int64)
    count = rows + is_column * (columns - rows)
    return 2 * rows * is_column + (k // 2) * count, count


@triton.jit
def chunk_kernel(
    step_ptr, state_ptr, a_logs_ptr, chunk_step_ptr, chunk_state_ptr,
    length_rows, length_columns, channels, first_channel, group,
    chunks, chunk_length, channel_blocks,
    N: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Compose the segments of one chunk into one summary; REVERSE walks against the scan order (gradients)."""
    chunk = tl.program_id(0) // channel_blocks
    slot = tl.cast(tl.program_id(0) % channel_blocks * BD + tl.arange(0, BD), tl.int64)
    ok = slot < group
    k = tl.program_id(1) // N
    n = tl.program_id(1) % N
    batch = tl.cast(tl.program_id(2), tl.int64)
    rate = decay_rate(a_logs_ptr, first_channel + slot, ok, channels, k, n, N)
    base, count = direction_span(k, length_rows, length_columns)
    base += batch * 2 * (tl.cast(length_rows, tl.int64) + length_columns)
    total = tl.zeros((BD,), tl.float32)
    carry = tl.zeros((BD,), tl.float32)
    begin = tl.cast(chunk, tl.int64) * chunk_length
    for i in range(tl.minimum(count - begin, chunk_length)):
        s = begin + i
        where = (base + (count - 1 - s if REVERSE else s)) * group
        step = tl.load(step_ptr + where + slot, mask=ok, other=0.0)
        state = tl.load(state_ptr + where * N + n * group + slot, mask=ok, other=0.0)
        total += step
        carry = tl.exp2(step * rate) * carry + state
    place = ((batch * 4 + k) * chunks + chunk) * group
    if n == 0:
        tl.store(chunk_step_ptr + place + slot, total, mask=ok)
    tl.store(chunk_state_ptr + place * N + n * group + slot, carry, mask=ok)


@triton.jit
def carry_kernel(
    chunk_step_ptr, chunk_state_ptr, a_logs_ptr, channels, first_channel, group,
    chunks, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Replace the state each chunk yields by the state that enters it, walking over the chunks."""
    slot = tl.cast(tl.program_id(0) * BD + tl.arange(0, BD), tl.int64)
    ok = slot < group
    k = tl.program_id(1) // N
    n = tl.program_id(1) % N
    rate = decay_rate(a_logs_ptr, first_channel + slot, ok, channels, k, n, N)
    base = (tl.cast(tl.program_id(2), tl.int64) * 4 + k) * chunks
    carry = tl.zeros((BD,), tl.float32)
    for chunk in range(chunks):
        place = (base + chunk) * group
        step = tl.load(chunk_step_ptr + place + slot, mask=ok, other=0.0)
        state = tl.load(chunk_state_ptr + place * N + n * group + slot, mask=ok, other=0.0)
        tl.store(chunk_state_ptr + place * N + n * group + slot, carry, mask=ok)
        carry = tl.exp2(step * rate) * carry + state


@triton.jit
def enter_kernel(
    step_ptr, state_ptr, a_logs_ptr, chunk_state_ptr,
    length_rows, length_columns, channels, first_channel, group,
    chunks, chunk_length, channel_blocks,
    N: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace, within one chunk, the state each segment yields by the state that enters it."""
    chunk = tl.program_id(0) // channel_blocks
    slot = tl.cast(tl.program_id(0) % channel_blocks * BD + tl.arange(0, BD), tl.int64)
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
    for i in range(tl.minimum(count - begin, chunk_length)):
        s = begin + i
        where = (base + (count - 1 - s if REVERSE else s)) * group
        step = tl.load(step_ptr + where + slot, mask=ok, other=0.0)
        state = tl.load(state_ptr + where * N + n * group + slot, mask=ok, other=0.0)
        tl.store(state_ptr + where * N + n * group + slot, carry, mask=ok)
        carry = tl.exp2(step * rate) * carry + state


@triton.jit
def apply_kernel(
    u_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, skip_ptr, enter_ptr,
    y_ptr,
    height, width, channels, rank, first_channel, group,
    tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, proj_stride_b, proj_stride_h, proj_stride_w,
    y_stride_b, y_stride_h, y_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scan a tile in four directions from the entering states and write the sum, skip included."""
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    row = tile_row * TH + tl.arange(0, TH)
    column = tile_column * TW + tl.arange(0, TW)
    slot = tl.cast(block * BD + tl.arange(0, BD), tl.int64)
    channel = first_channel + slot
    channel_ok = slot < group
    inside = (row < height)[:, None] & (column < width)[None, :]
    valid = inside[:, :, None] & channel_ok[None, None, :]
    u_token = token_offset(batch, row[:, None], column[None, :], u_stride_b, u_stride_h, u_stride_w)
    token = token_offset(batch, row[:, None], column[None, :], proj_stride_b, proj_stride_h, proj_stride_w)
    u = tl.load(u_ptr + u_token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(tl.float32)
    skip = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(4):
        skip += tl.load(skip_ptr + k * channels + channel, mask=channel_ok, other=0.0)
    y = u * skip[None, None, :]
    for k in tl.static_range(4):
        first = k * (rank + 2 * N)
        low = load_low_rank(proj_ptr, token, inside, rank, first, RP)
        z = step_logits(
            low, weight_ptr, bias_ptr, channel, channel_ok, channels, rank, k, TH, TW, BD, RP, PRECISION
        )
        delta = tl.where(valid, softplus(z), 0.0)
        segment, exists = segments_of_tile(
            batch, tile_row, tile_column, row, column, height, width, tiles_h, tiles_w, group, k
        )
        mask = exists[:, None] & channel_ok[None, :]
        for n in range(N):
            rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)
            B = tl.load(proj_ptr + token + (first + rank + n), mask=inside, other=0.0).to(tl.float32)
            C = tl.load(proj_ptr + token + (first + rank + N + n), mask=inside, other=0.0).to(tl.float32)
            enter = tl.load(
                enter_ptr + segment[:, None] * N + n * group + slot[None, :], mask=mask, other=0.0
            )
            decay = tl.exp2(delta * rate[None, None, :])
            drive = delta * u * B[:, :, None] + decay * at_border(enter, True, k, TH, TW)
            _, h = tl.associative_scan((decay, drive), 1 - k % 2, follow, reverse=k >= 2)
            y += h * C[:, :, None]
    y_token = token_offset(batch, row[:, None], column[None, :], y_stride_b, y_stride_h, y_stride_w)
    tl.store(y_ptr + y_token[:, :, None] + channel[None, None, :], y, mask=valid)
