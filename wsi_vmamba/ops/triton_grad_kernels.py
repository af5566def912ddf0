# Kernels are Triton, not Python: only compile-time arguments may carry annotations.
# mypy: disable-error-code="misc,untyped-decorator,no-untyped-call,no-untyped-def"
# ruff: noqa: ANN001, ANN201
"""The gradient of the four-direction scan: one more pass over the tiles, states recomputed.

With ``h_t = a_t h_{t-1} + b_t`` and ``y_t = C_t . h_t``, the gradient of the state obeys the same recurrence the
other way: ``g_t = C_t gy_t + a_{t+1} g_{t+1}``. What a segment sends back to the token before it is therefore
``exp(A * step) * (what enters it from behind) + adjoint``, and the carries between tiles are combined by the same
kernels as those of the forward pass, against the scan order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wsi_vmamba.ops.triton_tiles import (
    LOG2E,
    MAP_STRIDES,
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


@triton.jit
def follow_back(first_1, rest_1, value_1, first_2, rest_2, value_2):
    """Compose two stretches of ``g_t = c_t + a_{t+1} g_{t+1}``; 1 is the LATER one in scan order.

    A stretch keeps the decay of its first token apart (``first``) from the product of the others (``rest``):
    the decay between two tokens is that of the later one, which the earlier token does not know.
    """
    return first_2, rest_2 * first_1 * rest_1, value_2 + rest_2 * first_1 * value_1


@triton.jit
def over_channels(tile, BD: tl.constexpr):
    """Sum a tile (ALONG, ACROSS x BD) over its channels: (ALONG, ACROSS)."""
    return tl.sum(tl.reshape(tile, (tile.shape[0], tile.shape[1] // BD, BD)), axis=2)


@triton.jit
def over_tokens(tile, BD: tl.constexpr):
    """Sum a tile (ALONG, ACROSS x BD) over its tokens: (BD,)."""
    return tl.sum(tl.reshape(tl.sum(tile, axis=0), (tile.shape[1] // BD, BD)), axis=0)


@triton.jit(do_not_specialize_on_alignment=MAP_STRIDES)
def grad_kernel(
    u_ptr, gy_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, skip_ptr, enter_ptr, adjoint_ptr,
    du_ptr, dproj_ptr, dweight_ptr, dbias_ptr, da_ptr, dskip_ptr, batches,
    height, width, channels, rank, packed, first_channel, group, tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, gy_stride_b, gy_stride_h, gy_stride_w,
    proj_stride_b, proj_stride_h, proj_stride_w, du_stride_b, du_stride_h, du_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    VEC: tl.constexpr, PACK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write du of a tile, its share of d(proj) per channel block, and of the parameter gradients per tile."""
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    top, left, start = tile_row * TH, tile_column * TW, first_channel + block * BD
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC) + start
    gy_ptr += token_offset(batch, top, left, gy_stride_b * VEC, gy_stride_h * VEC, gy_stride_w * VEC) + start
    du_ptr += token_offset(batch, top, left, du_stride_b * VEC, du_stride_h * VEC, du_stride_w * VEC) + start
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    # Gradients of the projections go to (channel block, batch, height, width, 4 (R + 2 N)), contiguous.
    pitch = 4 * packed * PACK
    plane = tl.cast(start // BD, tl.int64) * batches + batch
    dproj_ptr += token_offset(plane, top, left, tl.cast(height, tl.int64) * width, width, 1) * pitch
    tile = tl.cast(tl.program_id(0) // channel_blocks, tl.int64)
    some = tl.arange(0, BD)
    some_ok = block * BD + some < group
    r = tl.arange(0, RP)
    du = tl.zeros((TH, TW * BD), tl.float32)
    for p in tl.static_range(2):
        row, column = token_axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        out = token_offset(0, row, column, 0, width, 1) * pitch
        row, column, lane = lane_axes(p, TH, TW, BD)
        slot = block * BD + lane
        lane_ok = slot < group
        valid = (top + row < height) & (left + column < width) & lane_ok[None, :]
        u = load_map(u_ptr + lane, row, column, u_stride_h * VEC, u_stride_w * VEC, valid)
        gy = load_map(gy_ptr + lane, row, column, gy_stride_h * VEC, gy_stride_w * VEC, valid)
        if p == 0:
            tl.store(dskip_ptr + tile * channels + start + some, over_tokens(gy * u, BD), mask=some_ok)
        skip = tl.load(skip_ptr + p * channels + start + lane, mask=lane_ok, other=0.0)
        skip += tl.load(skip_ptr + (p + 2) * channels + start + lane, mask=lane_ok, other=0.0)
        part = gy * skip[None, :]
        for k in tl.static_range(p, 4, 2):
            first = k * packed * PACK
            low = load_low_rank(proj_ptr, token, inside, first, packed, RP, PACK)
            weight = load_weight(weight_ptr, start + some, some_ok, channels, rank, k, RP)
            bias = tl.load(bias_ptr + k * channels + start + lane, mask=lane_ok, other=0.0)
            z = tl.reshape(tl.dot(low, weight, input_precision=PRECISION), u.shape) + bias[None, :]
            delta = tl.where(valid, softplus(z), 0.0)
            segment, exists = segments_of_tile(
                batch, tile_row, tile_column, height, width, tiles_h, tiles_w, group, k, TH, TW, BD
            )
            mask = exists & lane_ok
            begins, ends = is_border(True, k, u.shape[0]), is_border(False, k, u.shape[0])
            parameter = (tile * 4 + k) * channels + start + some
            ddelta = tl.zeros(u.shape, tl.float32)
            for n in range(N):
                rate = decay_rate(a_logs_ptr, start + lane, lane_ok, channels, k, n, N)[None, :]
                B = load_column(proj_ptr, token, inside, first + rank + n, BD)
                C = load_column(proj_ptr, token, inside, first + rank + N + n, BD)
                place = segment * N + n * group + slot
                enter = tl.load(enter_ptr + place, mask=mask, other=0.0)[None, :]
                behind = tl.load(adjoint_ptr + place, mask=mask, other=0.0)[None, :]
                decay = tl.exp2(delta * rate)
                drive = u * delta * B
                _, h = tl.associative_scan(
                    (decay, tl.where(begins, drive + decay * enter, drive)), 0, follow, reverse=k >= 2
                )
                forcing = gy * C
                forcing = tl.where(ends, forcing + behind, forcing)
                ones = tl.full(u.shape, 1.0, tl.float32)
                _, _, g = tl.associative_scan((decay, ones, forcing), 0, follow_back, reverse=k < 2)
                part += g * delta * B
                # a_t h_{t-1} = h_t - b_t, so the state before the token is never needed; `rate` is A log2(e).
                decayed = g * (h - drive) * (rate / LOG2E)
                ddelta += g * u * B + decayed
                tl.store(dproj_ptr + out + (first + rank + n), over_channels(g * delta * u, BD), mask=inside)
                tl.store(dproj_ptr + out + (first + rank + N + n), over_channels(gy * h, BD), mask=inside)
                tl.store(da_ptr + parameter * N + n, over_tokens(decayed * delta, BD), mask=some_ok)
            dz = tl.where(valid, ddelta * tl.sigmoid(z), 0.0)
            tl.store(dbias_ptr + parameter, over_tokens(dz, BD), mask=some_ok)
            dz = tl.reshape(dz, (TH * TW, BD))
            dlow = tl.dot(dz, tl.trans(weight), input_precision=PRECISION)
            dlow = tl.reshape(dlow, (TH if p else TW, TW if p else TH, RP))
            low_mask = inside[:, :, None] & (r < rank)[None, None, :]
            tl.store(dproj_ptr + out[:, :, None] + (first + r)[None, None, :], dlow, mask=low_mask)
            dweight = tl.dot(tl.trans(dz), low, input_precision=PRECISION)
            weight_mask = some_ok[:, None] & (r < rank)[None, :]
            tl.store(dweight_ptr + parameter[:, None] * rank + r[None, :], dweight, mask=weight_mask)
        du += turn(part, TH, TW, BD) if p == 0 else part
    row, column, lane = lane_axes(1, TH, TW, BD)
    valid = (top + row < height) & (left + column < width) & (block * BD + lane < group)[None, :]
    place = token_offset(0, row, column, 0, du_stride_h * VEC, du_stride_w * VEC) + lane[None, :]
    tl.store(du_ptr + place, du, mask=valid)
