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
    MAP_STRIDES,
    axes,
    decay_rate,
    follow,
    is_border,
    load_column,
    load_low_rank,
    load_map,
    load_weight,
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
    slot = block * BD + tl.arange(0, BD)
    channel = first_channel + slot
    channel_ok = slot < group
    top, left = tile_row * TH, tile_column * TW
    u_ptr += token_offset(batch, top, left, u_stride_b * VEC, u_stride_h * VEC, u_stride_w * VEC)
    gy_ptr += token_offset(batch, top, left, gy_stride_b * VEC, gy_stride_h * VEC, gy_stride_w * VEC)
    du_ptr += token_offset(batch, top, left, du_stride_b * VEC, du_stride_h * VEC, du_stride_w * VEC)
    proj_ptr += token_offset(
        batch, top, left, proj_stride_b * PACK, proj_stride_h * PACK, proj_stride_w * PACK
    )
    # Gradients of the projections go to (channel block, batch, height, width, 4 (R + 2 N)), contiguous.
    pitch = 4 * packed * PACK
    plane = tl.cast(first_channel // BD + block, tl.int64) * batches + batch
    dproj_ptr += token_offset(plane, top, left, tl.cast(height, tl.int64) * width, width, 1) * pitch
    tile = tl.cast(tl.program_id(0) // channel_blocks, tl.int64)
    r = tl.arange(0, RP)
    skip = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(4):
        skip += tl.load(skip_ptr + k * channels + channel, mask=channel_ok, other=0.0)
    du = tl.zeros((TH, TW, BD), tl.float32)
    for p in tl.static_range(2):
        row, column = axes(p, TH, TW)
        inside = (top + row < height) & (left + column < width)
        valid = inside[:, :, None] & channel_ok[None, None, :]
        token = token_offset(0, row, column, 0, proj_stride_h * PACK, proj_stride_w * PACK)
        out = token_offset(0, row, column, 0, width, 1) * pitch
        u = load_map(
            u_ptr, token_offset(0, row, column, 0, u_stride_h * VEC, u_stride_w * VEC), channel, valid
        )
        gy = load_map(
            gy_ptr, token_offset(0, row, column, 0, gy_stride_h * VEC, gy_stride_w * VEC), channel, valid
        )
        if p == 0:
            part = gy * skip[None, None, :]
            tl.store(
                dskip_ptr + tile * channels + channel, tl.sum(tl.sum(gy * u, axis=0), axis=0), mask=channel_ok
            )
        else:
            part = tl.zeros((TH, TW, BD), tl.float32)
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
            begins, ends = is_border(True, k, TH if p else TW), is_border(False, k, TH if p else TW)
            parameter = (tile * 4 + k) * channels + channel
            ddelta = tl.zeros((TH if p else TW, TW if p else TH, BD), tl.float32)
            for n in range(N):
                rate = decay_rate(a_logs_ptr, channel, channel_ok, channels, k, n, N)
                B = load_column(proj_ptr, token, inside, first + rank + n)
                C = load_column(proj_ptr, token, inside, first + rank + N + n)
                place = segment[:, None] * N + n * group + slot[None, :]
                enter = tl.load(enter_ptr + place, mask=mask, other=0.0)
                behind = tl.load(adjoint_ptr + place, mask=mask, other=0.0)
                decay = tl.exp2(delta * rate[None, None, :])
                drive = delta * u * B
                start = tl.where(begins, drive + decay * enter[None, :, :], drive)
                _, h = tl.associative_scan((decay, start), 0, follow, reverse=k >= 2)
                forcing = gy * C + tl.where(ends, behind[None, :, :], 0.0)
                ones = tl.full((TH if p else TW, TW if p else TH, BD), 1.0, tl.float32)
                _, _, g = tl.associative_scan((decay, ones, forcing), 0, follow_back, reverse=k < 2)
                part += g * delta * B
                # a_t h_{t-1} = h_t - b_t, so the state before the token is never needed; `rate` is A log2(e).
                decayed = g * (h - drive)
                ddelta += g * u * B + decayed * (rate[None, None, :] / LOG2E)
                tl.store(dproj_ptr + out + (first + rank + n), tl.sum(g * delta * u, axis=2), mask=inside)
                tl.store(dproj_ptr + out + (first + rank + N + n), tl.sum(gy * h, axis=2), mask=inside)
                da = tl.sum(tl.sum(decayed * delta, axis=0), axis=0) * (rate / LOG2E)
                tl.store(da_ptr + parameter * N + n, da, mask=channel_ok)
            dz = tl.where(valid, ddelta * tl.sigmoid(z), 0.0)
            tl.store(dbias_ptr + parameter, tl.sum(tl.sum(dz, axis=0), axis=0), mask=channel_ok)
            dz = tl.reshape(dz, (TH * TW, BD))
            dlow = tl.dot(dz, tl.trans(weight), input_precision=PRECISION)
            dlow = tl.reshape(dlow, (TH if p else TW, TW if p else TH, RP))
            low_mask = inside[:, :, None] & (r < rank)[None, None, :]
            tl.store(dproj_ptr + out[:, :, None] + (first + r)[None, None, :], dlow, mask=low_mask)
            dweight = tl.dot(tl.trans(dz), tl.reshape(low, (TH * TW, RP)), input_precision=PRECISION)
            weight_mask = channel_ok[:, None] & (r < rank)[None, :]
            tl.store(dweight_ptr + parameter[:, None] * rank + r[None, :], dweight, mask=weight_mask)
        du += tl.permute(part, (1, 0, 2)) if p == 0 else part
    row, column = axes(1, TH, TW)
    valid = ((top + row < height) & (left + column < width))[:, :, None] & channel_ok[None, None, :]
    du_token = token_offset(0, row, column, 0, du_stride_h * VEC, du_stride_w * VEC)
    tl.store(du_ptr + du_token[:, :, None] + channel[None, None, :], du, mask=valid)
