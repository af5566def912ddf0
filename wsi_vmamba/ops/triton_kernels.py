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

Inside a kernel a tile is a matrix (ALONG, ACROSS x BD): the axis that is walked comes first, for rows and for columns,
and is loaded that way round; the other axis and the channels lie side by side. Threads are spread over the second
dimension only, each holds the tokens it walks over in its own registers, and a scan needs neither shuffles nor shared
memory. For that layout the compiler must not know that addresses are aligned to more than VEC channels: strides of maps
are passed in units of VEC, their own alignment hidden.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
#: Strides whose alignment is hidden from the compiler, see above.
MAP_STRIDES = [f"{name}_stride_{axis}" for name in ("u", "gy", "y", "du") for axis in "bhw"]


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
def token_axes(P: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Rows and columns inside a tile, broadcastable to (ALONG, ACROSS): P = 0 walks rows, 1 columns."""
    if P == 0:
        return tl.arange(0, TH)[None, :], tl.arange(0, TW)[:, None]
    else:  # noqa: RET505 - Triton wants both branches
        return tl.arange(0, TH)[:, None], tl.arange(0, TW)[None, :]


@triton.jit
def lane_axes(P: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr):
    """Rows, columns (broadcastable to (ALONG, ACROSS x BD)) and channels (ACROSS x BD,) inside a tile."""
    if P == 0:
        lane = tl.arange(0, TH * BD)
        return (lane // BD)[None, :], tl.arange(0, TW)[:, None], lane % BD
    else:  # noqa: RET505
        lane = tl.arange(0, TW * BD)
        return tl.arange(0, TH)[:, None], (lane // BD)[None, :], lane % BD


@triton.jit
def load_map(lane_ptr, row, column, stride_h, stride_w, valid):
    """A tile of a map, (ALONG, ACROSS x BD) in float32; ``lane_ptr`` points at its first token, channel by lane."""
    place = token_offset(0, row, column, 0, stride_h, stride_w)
    return tl.load(lane_ptr[None, :] + place, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def spread(values, BD: tl.constexpr):
    """Repeat (ALONG, ACROSS) for every channel: (ALONG, ACROSS x BD)."""
    along: tl.constexpr = values.shape[0]
    across: tl.constexpr = values.shape[1]
    return tl.reshape(tl.broadcast_to(values[:, :, None], (along, across, BD)), (along, across * BD))


@triton.jit
def load_low_rank(proj_ptr, token, inside, first, packed, RP: tl.constexpr, PACK: tl.constexpr):
    """The low-rank step inputs of a tile, (ALONG x ACROSS, RP) in float32.

    Reads on into B and C, up to the end of the direction's ``packed * PACK`` values, so that whole vectors can be
    loaded; `load_weight` has zeros there.
    """
    r = tl.arange(0, RP)
    mask = inside[:, :, None] & (r < packed * PACK)[None, None, :]
    low = tl.load(proj_ptr + token[:, :, None] + (first + r)[None, None, :], mask=mask, other=0.0).to(
        tl.float32
    )
    return tl.reshape(low, (token.shape[0] * token.shape[1], RP))


@triton.jit
def load_weight(weight_ptr, channel, channel_ok, channels, rank, K: tl.constexpr, RP: tl.constexpr):
    """dt-projection of direction K for a block of channels, (RP, BD), zero from ``rank`` on."""
    r = tl.arange(0, RP)
    mask = channel_ok[None, :] & (r < rank)[:, None]
    return tl.load(weight_ptr + (K * channels + channel)[None, :] * rank + r[:, None], mask=mask, other=0.0)


@triton.jit
def load_column(proj_ptr, token, inside, place, BD: tl.constexpr):
    """One value of the projection for each token of a tile, spread over the channels, float32."""
    return spread(tl.load(proj_ptr + token + place, mask=inside, other=0.0).to(tl.float32), BD)


@triton.jit
def decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N):
    """A = -exp(A_logs) of state ``n``, times log2(e), for each of ``channel``."""
    a_log = tl.load(a_logs_ptr + (k * channels + channel) * N + n, mask=channel_ok, other=0.0)
    return -tl.exp2(a_log * LOG2E) * LOG2E


@triton.jit
def segments_of_tile(
    batch, tile_row, tile_column, height, width, tiles_h, tiles_w, slots,
    K: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Scratch offsets of the segments that direction K cuts through a tile, and which exist: (ACROSS x BD,) each."""
    length_rows = tl.cast(height, tl.int64) * tiles_w
    length_columns = tl.cast(width, tl.int64) * tiles_h
    if K % 2 == 0:
        across = tile_row * TH + tl.arange(0, TH * BD) // BD
        index = tl.cast(across, tl.int64) * tiles_w + tile_column
        exists = across < height
    else:
        across = tile_column * TW + tl.arange(0, TW * BD) // BD
        index = tl.cast(across, tl.int64) * tiles_h + tile_row
        exists = across < width
    return segment_offset(batch, index, length_rows, length_columns, slots, K), exists


@triton.jit
def is_border(FIRST: tl.constexpr, K: tl.constexpr, ALONG: tl.constexpr):
    """Which tokens are the first (else the last) of direction K inside a tile, (ALONG, 1)."""
    return tl.arange(0, ALONG)[:, None] == (0 if (K < 2) == FIRST else ALONG - 1)


@triton.jit
def border_of(tile, FIRST: tl.constexpr, K: tl.constexpr):
    """The values of a tile at the first (else the last) token of direction K, (ACROSS x BD,)."""
    return tl.sum(tl.where(is_border(FIRST, K, tile.shape[0]), tile, 0.0), axis=0)


@triton.jit
def turn(tile, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr):
    """(TW, TH x BD), as row directions have it, to (TH, TW x BD)."""
    return tl.reshape(tl.permute(tl.reshape(tile, (TW, TH, BD)), (1, 0, 2)), (TH, TW * BD))


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
