# Kernels are Triton, not Python: only compile-time arguments may carry annotations.
# mypy: disable-error-code="misc,untyped-decorator,no-untyped-call,no-untyped-def"
# ruff: noqa: ANN001, ANN201
"""Triton kernels of the operators around the scan that torch does slowly on channels-last maps."""

from __future__ import annotations

import triton
import triton.language as tl

from wsi_vmamba.ops.triton_tiles import token_offset


@triton.jit
def norm_kernel(
    x_ptr, gate_ptr, add_ptr, weight_ptr, bias_ptr, out_ptr, tokens, channels, eps, x_stride, gate_stride, out_stride,
    GATED: tl.constexpr, ADDS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """LayerNorm of BT tokens in float32, times SiLU(gate); ADDS then adds a vector to ``x`` itself."""
    token = tl.cast(tl.program_id(0), tl.int64) * BT + tl.arange(0, BT)
    channel = tl.arange(0, BD)
    channel_ok = channel < channels
    valid = (token < tokens)[:, None] & channel_ok[None, :]
    place = token[:, None] * x_stride + channel[None, :]
    raw = tl.load(x_ptr + place, mask=valid, other=0.0)
    x = raw.to(tl.float32)
    mean = tl.sum(x, axis=1) / channels
    centred = tl.where(valid, x - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / channels + eps)
    weight = tl.load(weight_ptr + channel, mask=channel_ok, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=channel_ok, other=0.0)
    y = centred * scale[:, None] * weight[None, :] + bias[None, :]
    if GATED:
        gate = tl.load(gate_ptr + token[:, None] * gate_stride + channel[None, :], mask=valid, other=0.0)
        gate = gate.to(tl.float32)
        y = y * gate * tl.sigmoid(gate)
    tl.store(out_ptr + token[:, None] * out_stride + channel[None, :], y, mask=valid)
    if ADDS:
        add = tl.load(add_ptr + channel, mask=channel_ok, other=0.0)
        tl.store(x_ptr + place, x + add[None, :], mask=valid)


@triton.jit
def depthwise_kernel(
    v_ptr, weight_ptr, bias_ptr, out_ptr, v_rows, top, rows, width, channels, tiles_w, channel_blocks,
    BIASED: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Depthwise 3x3 convolution and SiLU of TH x TW tokens; ``v`` has ``top`` rows above the first output row."""
    program = tl.program_id(0)
    block = program % channel_blocks
    tile = program // channel_blocks
    row = tile // tiles_w * TH + tl.arange(0, TH)
    column = tile % tiles_w * TW + tl.arange(0, TW)
    channel = block * BD + tl.arange(0, BD)
    channel_ok = channel < channels
    total = tl.zeros((TH, TW, BD), tl.float32)
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            from_row = row + (top + i - 1)
            from_column = column + (j - 1)
            inside = (from_row >= 0) & (from_row < v_rows)
            across = (from_column >= 0) & (from_column < width)
            mask = inside[:, None, None] & across[None, :, None] & channel_ok[None, None, :]
            place = token_offset(0, from_row[:, None], from_column[None, :], 0, width, 1) * channels
            value = tl.load(v_ptr + place[:, :, None] + channel[None, None, :], mask=mask, other=0.0).to(
                tl.float32
            )
            weight = tl.load(weight_ptr + (i * 3 + j) * channels + channel, mask=channel_ok, other=0.0)
            total += value * weight[None, None, :]
    if BIASED:
        total += tl.load(bias_ptr + channel, mask=channel_ok, other=0.0)[None, None, :]
    out = token_offset(0, row[:, None], column[None, :], 0, width, 1) * channels
    mask = (row < rows)[:, None, None] & (column < width)[None, :, None] & channel_ok[None, None, :]
    tl.store(out_ptr + out[:, :, None] + channel[None, None, :], total * tl.sigmoid(total), mask=mask)
