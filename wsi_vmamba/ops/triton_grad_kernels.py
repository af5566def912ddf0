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

from wsi_vmamba.ops.triton_kernels import (
    LOG2E,
    at_border,
    decay_rate,
    follow,
    load_low_rank,
    segments_of_tile,
    softplus,
    step_logits,
    tile_position,
    token_offset,
)


@triton.jit
def follow_back(first_1, rest_1, value_1, first_2, rest_2, value_2):
    """Compose two stretches of ``g_t = c_t + a_{t+1} g_{t+1}``; 1 is the LATER one in scan order.

    A stretch keeps the decay of its first token apart (``first``) from the product of the others (``rest``):
    the decay between two tokens is that of the later one, which the earlier token does not know.
    """
    return first_2, rest_2 * first_1 * rest_1, value_2 + rest_2 * first_1 * value_1


@triton.jit
def grad_kernel(
    u_ptr, gy_ptr, proj_ptr, weight_ptr, bias_ptr, a_logs_ptr, skip_ptr, enter_ptr, adjoint_ptr,
    du_ptr, dproj_ptr, dweight_ptr, dbias_ptr, da_ptr, dskip_ptr,
    batches, height, width, channels, rank, first_channel, group, tiles_h, tiles_w, channel_blocks,
    u_stride_b, u_stride_h, u_stride_w, gy_stride_b, gy_stride_h, gy_stride_w,
    proj_stride_b, proj_stride_h, proj_stride_w, du_stride_b, du_stride_h, du_stride_w,
    N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr, RP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write du of a tile, its share of d(proj) per channel block, and of the parameter gradients per tile."""
    batch, tile_row, tile_column, block = tile_position(tiles_h, tiles_w, channel_blocks)
    row = tile_row * TH + tl.arange(0, TH)
    column = tile_column * TW + tl.arange(0, TW)
    slot = tl.cast(block * BD + tl.arange(0, BD), tl.int64)
    channel = first_channel + slot
    channel_ok = slot < group
    inside = (row < height)[:, None] & (column < width)[None, :]
    valid = inside[:, :, None] & channel_ok[None, None, :]
    u_token = token_offset(batch, row[:, None], column[None, :], u_stride_b, u_stride_h, u_stride_w)
    gy_token = token_offset(batch, row[:, None], column[None, :], gy_stride_b, gy_stride_h, gy_stride_w)
    token = token_offset(batch, row[:, None], column[None, :], proj_stride_b, proj_stride_h, proj_stride_w)
    u = tl.load(u_ptr + u_token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(tl.float32)
    gy = tl.load(gy_ptr + gy_token[:, :, None] + channel[None, None, :], mask=valid, other=0.0).to(tl.float32)
    # Gradients of the projections go to (channel block, batch, height, width, 4 (R + 2 N)), contiguous.
    width_proj = 4 * (rank + 2 * N)
    plane = tl.cast(first_channel // BD + block, tl.int64) * batches + batch
    out = (
        token_offset(plane, row[:, None], column[None, :], tl.cast(height, tl.int64) * width, width, 1)
        * width_proj
    )
    tile = tl.cast(tl.program_id(0) // channel_blocks, tl.int64)
    r = tl.arange(0, RP)
    skip = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(4):
        skip += tl.load(skip_ptr + k * channels + channel, mask=channel_ok, other=0.0)
    du = gy * skip[None, None, :]
    tl.store(dskip_ptr + tile * channels + channel, tl.sum(tl.sum(gy * u, axis=1), axis=0), mask=channel_ok)
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
        parameter = (tile * 4 + k) * channels + channel
        ddelta = tl.zeros((TH, TW, BD), tl.float32)
        for n in range(N):
            rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)
            B = tl.load(proj_ptr + token + (first + rank + n), mask=inside, other=0.0).to(tl.float32)[
                :, :, None
            ]
            C = tl.load(proj_ptr + token + (first + rank + N + n), mask=inside, other=0.0).to(tl.float32)[
                :, :, None
            ]
            place = segment[:, None] * N + n * group + slot[None, :]
            enter = tl.load(enter_ptr + place, mask=mask, other=0.0)
            behind = tl.load(adjoint_ptr + place, mask=mask, other=0.0)
            decay = tl.exp2(delta * rate[None, None, :])
            drive = delta * u * B
            start = drive + decay * at_border(enter, True, k, TH, TW)
            _, h = tl.associative_scan((decay, start), 1 - k % 2, follow, reverse=k >= 2)
            forcing = gy * C + at_border(behind, False, k, TH, TW)
            ones = tl.full((TH, TW, BD), 1.0, tl.float32)
            _, _, g = tl.associative_scan((decay, ones, forcing), 1 - k % 2, follow_back, reverse=k < 2)
            du += g * delta * B
            # a_t h_{t-1} = h_t - b_t, so the state before the token is never needed; `rate` is A log2(e).
            decayed = g * (h - drive)
            ddelta += g * u * B + decayed * (rate[None, None, :] / LOG2E)
            tl.store(dproj_ptr + out + (first + rank + n), tl.sum(g * delta * u, axis=2), mask=inside)
            tl.store(dproj_ptr + out + (first + rank + N + n), tl.sum(gy * h, axis=2), mask=inside)
            da = tl.sum(tl.sum(decayed * delta, axis=1), axis=0) * (rate / LOG2E)
            tl.store(da_ptr + parameter * N + n, da, mask=channel_ok)
        dz = tl.where(valid, ddelta * tl.sigmoid(z), 0.0)
        tl.store(dbias_ptr + parameter, tl.sum(tl.sum(dz, axis=1), axis=0), mask=channel_ok)
        dz = tl.reshape(dz, (TH * TW, BD))
        weight_row = k * channels + channel
        weight = tl.load(
            weight_ptr + weight_row[:, None] * rank + r[None, :],
            mask=channel_ok[:, None] & (r < rank)[None, :],
            other=0.0,
        )
        dlow = tl.reshape(tl.dot(dz, weight, input_precision=PRECISION), (TH, TW, RP))
        low_mask = inside[:, :, None] & (r < rank)[None, None, :]
        tl.store(dproj_ptr + out[:, :, None] + (first + r)[None, None, :], dlow, mask=low_mask)
        dweight = tl.dot(tl.trans(dz), tl.reshape(low, (TH * TW, RP)), input_precision=PRECISION)
        tl.store(
            dweight_ptr + parameter[:, None] * rank + r[None, :],
            dweight,
            mask=channel_ok[:, None] & (r < rank)[None, :],
        )
    du_token = token_offset(batch, row[:, None], column[None, :], du_stride_b, du_stride_h, du_stride_w)
    tl.store(du_ptr + du_token[:, :, None] + channel[None, None, :], du, mask=valid)
