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

Inside a kernel a tile is (ALONG, ACROSS, BD): the axis that is walked comes first, for rows and for columns, and is
loaded that way round. Threads are then spread over channels and ACROSS, each holds the tokens it walks over in its
own registers, and a scan needs neither shuffles nor shared memory. For that layout the compiler must not know that
addresses are aligned to more than VEC channels: strides of maps are passed in units of VEC, their own alignment hidden.
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
def axes(P: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """Rows and columns inside a tile, broadcastable to (ALONG, ACROSS): P = 0 walks rows, 1 columns."""
    if P == 0:
        return tl.arange(0, TH)[None, :], tl.arange(0, TW)[:, None]
    else:  # noqa: RET505 - Triton wants both branches
        return tl.arange(0, TH)[:, None], tl.arange(0, TW)[None, :]


@triton.jit
def load_map(ptr, token, channel, valid):
    """A tile of a map, (ALONG, ACROSS, BD) in float32; ``token`` (ALONG, ACROSS) are offsets from ``ptr``."""
    return tl.load(ptr + token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(tl.float32)


@triton.jit
def load_low_rank(proj_ptr, token, inside, first, packed, RP: tl.constexpr, PACK: tl.constexpr):
    """The low-rank step inputs of a tile, (ALONG, ACROSS, RP) in float32.

    Reads on into B and C, up to the end of the direction's ``packed * PACK`` values, so that whole vectors can be
    loaded; `load_weight` has zeros there.
    """
    r = tl.arange(0, RP)
    mask = inside[:, :, None] & (r < packed * PACK)[None, None, :]
    return tl.load(proj_ptr + token[:, :, None] + (first + r)[None, None, :], mask=mask, other=0.0).to(
        tl.float32
    )


@triton.jit
def load_weight(weight_ptr, channel, channel_ok, channels, rank, K: tl.constexpr, RP: tl.constexpr):
    """dt-projection of direction K for a block of channels, (RP, BD), zero from ``rank`` on."""
    r = tl.arange(0, RP)
    mask = channel_ok[None, :] & (r < rank)[:, None]
    return tl.load(weight_ptr + (K * channels + channel)[None, :] * rank + r[:, None], mask=mask, other=0.0)


@triton.jit
def step_logits(
    low, weight, bias_ptr, channel, channel_ok, channels,
    K: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Step sizes of a tile before softplus, (ALONG, ACROSS, BD): the dt-projection as one matrix product."""
    bias = tl.load(bias_ptr + K * channels + channel, mask=channel_ok, other=0.0)
    z = tl.dot(tl.reshape(low, (ALONG * ACROSS, RP)), weight, input_precision=PRECISION)
    return tl.reshape(z, (ALONG, ACROSS, BD)) + bias[None, None, :]


@triton.jit
def load_column(proj_ptr, token, inside, place):
    """One value of the projection for each token of a tile, (ALONG, ACROSS, 1) in float32."""
    return tl.load(proj_ptr + token + place, mask=inside, other=0.0).to(tl.float32)[:, :, None]


@triton.jit
def decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N):
    """A = -exp(A_logs) of state ``n``, times log2(e), for a block of channels."""
    a_log = tl.load(a_logs_ptr + (k * channels + channel) * N + n, mask=channel_ok, other=0.0)
    return -tl.exp2(a_log * LOG2E) * LOG2E


@triton.jit
def segments_of_tile(
    batch, tile_row, tile_column, height, width, tiles_h, tiles_w, slots,
    K: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
):  # fmt: skip
    """Scratch offsets of the segments that direction K cuts through a tile, and which exist: (ACROSS,) each."""
    length_rows = tl.cast(height, tl.int64) * tiles_w
    length_columns = tl.cast(width, tl.int64) * tiles_h
    if K % 2 == 0:
        across = tile_row * TH + tl.arange(0, TH)
        index = tl.cast(across, tl.int64) * tiles_w + tile_column
        exists = across < height
    else:
        across = tile_column * TW + tl.arange(0, TW)
        index = tl.cast(across, tl.int64) * tiles_h + tile_row
        exists = across < width
    return segment_offset(batch, index, length_rows, length_columns, slots, K), exists


@triton.jit
def is_border(FIRST: tl.constexpr, K: tl.constexpr, ALONG: tl.constexpr):
    """Which tokens are the first (else the last) of direction K inside a tile, (ALONG, 1, 1)."""
    return tl.arange(0, ALONG)[:, None, None] == (0 if (K < 2) == FIRST else ALONG - 1)


@triton.jit
def border_of(tile, FIRST: tl.constexpr, K: tl.constexpr, ALONG: tl.constexpr):
    """The values of a tile at the first (else the last) token of direction K, (ACROSS, BD)."""
    return tl.sum(tl.where(is_border(FIRST, K, ALONG), tile, 0.0), axis=0)


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
    slot = block * BD + tl.arange(0, BD)
    channel = first_channel + slot
    channel_ok = slot < group
    top, left = tile_row * TH, tile_column * TW
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC)
    gy_ptr += token_offset(batch, top, left, gy_stride_b * VEC, gy_stride_h * VEC, gy_stride_w * VEC)
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    for p in tl.static_range(2):
        row, column = axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        valid = inside[:, :, None] & channel_ok[None, None, :]
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        u = load_map(
            u_ptr, token_offset(0, row, column, 0, u_stride_h * VEC, u_stride_w * VEC), channel, valid
        )
        if ADJOINT:
            gy = load_map(
                gy_ptr, token_offset(0, row, column, 0, gy_stride_h * VEC, gy_stride_w * VEC), channel, valid
            )
        for k in tl.static_range(p, 4, 2):
            first = k * packed * PACK
            low = load_low_rank(proj_ptr, token, inside, first, packed, RP, PACK)
            weight = load_weight(weight_ptr, channel, channel_ok, channels, rank, k, RP)
            z = step_logits(
                low, weight, bias_ptr, channel, channel_ok, channels,
                k, TH if p else TW, TW if p else TH, BD, RP, PRECISION,
            )  # fmt: skip
            delta = tl.where(valid, softplus(z), 0.0)
            segment, exists = segments_of_tile(
                batch, tile_row, tile_column, height, width, tiles_h, tiles_w, group, k, TH, TW
            )
            mask = exists[:, None] & channel_ok[None, :]
            tl.store(step_ptr + segment[:, None] + slot[None, :], tl.sum(delta, axis=0), mask=mask)
            for n in range(N):
                rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)[None, None, :]
                place = segment[:, None] * N + n * group + slot[None, :]
                B = load_column(proj_ptr, token, inside, first + rank + n)
                decay = tl.exp2(delta * rate)
                _, h = tl.associative_scan((decay, delta * u * B), 0, follow, reverse=k >= 2)
                tl.store(state_ptr + place, border_of(h, False, k, TH if p else TW), mask=mask)
                if ADJOINT:
                    C = load_column(proj_ptr, token, inside, first + rank + N + n)
                    _, sent = tl.associative_scan((decay, decay * gy * C), 0, follow, reverse=k < 2)
                    tl.store(adjoint_ptr + place, border_of(sent, True, k, TH if p else TW), mask=mask)


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
    slot = block * BD + tl.arange(0, BD)
    channel = first_channel + slot
    channel_ok = slot < group
    top, left = tile_row * TH, tile_column * TW
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC)
    y_ptr += token_offset(batch, top, left, y_stride_b * VEC, y_stride_h * VEC, y_stride_w * VEC)
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    skip = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(4):
        skip += tl.load(skip_ptr + k * channels + channel, mask=channel_ok, other=0.0)
    y = tl.zeros((TH, TW, BD), tl.float32)
    for p in tl.static_range(2):
        row, column = axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        valid = inside[:, :, None] & channel_ok[None, None, :]
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        u = load_map(
            u_ptr, token_offset(0, row, column, 0, u_stride_h * VEC, u_stride_w * VEC), channel, valid
        )
        part = u * skip[None, None, :] if p == 0 else tl.zeros((TH, TW, BD), tl.float32)
        for k in tl.static_range(p, 4, 2):
            first = k * packed * PACK
            low = load_low_rank(proj_ptr, token, inside, first, packed, RP, PACK)
            weight = load_weight(weight_ptr, channel, channel_ok, channels, rank, k, RP)
            z = step_logits(
                low, weight, bias_ptr, channel, channel_ok, channels,
                k, TH if p else TW, TW if p else TH, BD, RP, PRECISION,
            )  # fmt: skip
            delta = tl.where(valid, softplus(z), 0.0)
            segment, exists = segments_of_tile(
                batch, tile_row, tile_column, height, width, tiles_h, tiles_w, group, k, TH, TW
            )
            mask = exists[:, None] & channel_ok[None, :]
            for n in range(N):
                rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)
                B = load_column(proj_ptr, token, inside, first + rank + n)
                C = load_column(proj_ptr, token, inside, first + rank + N + n)
                place = segment[:, None] * N + n * group + slot[None, :]
                enter = tl.load(enter_ptr + place, mask=mask, other=0.0)
                decay = tl.exp2(delta * rate[None, None, :])
                drive = delta * u * B
                drive = tl.where(
                    is_border(True, k, TH if p else TW), drive + decay * enter[None, :, :], drive
                )
                _, h = tl.associative_scan((decay, drive), 0, follow, reverse=k >= 2)
                part += h * C
        y += tl.permute(part, (1, 0, 2)) if p == 0 else part
    row, column = axes(1, TH, TW)
    valid = ((top + row < height) & (left + column < width))[:, :, None] & channel_ok[None, None, :]
    y_token = token_offset(0, row, column, 0, y_stride_h * VEC, y_stride_w * VEC)
    tl.store(y_ptr + y_token[:, :, None] + channel[None, None, :], y, mask=valid)
