"""Norm and depthwise convolution on strips of channels-last maps: Triton where it runs, torch elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.ops import triton
from wsi_vmamba.ops.triton_plan import ceil_div, power_of_two


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    out: Tensor,
    gate: Tensor | None = None,
    then_add: Tensor | None = None,
) -> Tensor:
    """Write LayerNorm(x), times SiLU(gate), to ``out``; afterwards add a vector to ``x`` in place.

    Args:
        x: tokens (T, D), any floating dtype; computed in float32.
        weight: (D,), float32.
        bias: (D,), float32.
        eps: added to the variance.
        out: (T, D); must not overlap ``x``.
        gate: (T, D), or None.
        then_add: (D,), float32, added to ``x`` after it was read; None leaves ``x`` alone.

    Returns:
        ``out``.
    """
    if not triton.supports(x):
        normed = F.layer_norm(x.to(weight.dtype), x.shape[1:], weight, bias, eps)
        out.copy_(normed if gate is None else normed * F.silu(gate.to(weight.dtype)))
        if then_add is not None:
            x.add_(then_add)
        return out
    from wsi_vmamba.ops.triton_local_kernels import norm_kernel

    tokens, channels = x.shape
    width = power_of_two(channels, least=16)
    lines = max(1, 4096 // width)
    with triton.on_device(x):
        norm_kernel[(ceil_div(tokens, lines),)](
            x, x if gate is None else gate, weight if then_add is None else then_add, weight, bias, out,
            tokens, channels, eps, x.stride(0), x.stride(0) if gate is None else gate.stride(0), out.stride(0),
            GATED=gate is not None, ADDS=then_add is not None, BT=lines, BD=width, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def depthwise_silu(v: Tensor, weight: Tensor, bias: Tensor | None, *, top: int, out: Tensor) -> Tensor:
    """Write SiLU(depthwise 3x3 convolution) to ``out``; zeros surround the map.

    Args:
        v: rows of the map, (rows + halo, W, D), contiguous: ``top`` (0 or 1) rows above the first row of ``out``, and
            possibly one below the last. A missing halo row is the edge of the map.
        weight: (9, D), float32, row by row of the 3x3 window.
        bias: (D,), float32, or None.
        top: rows of ``v`` above the first row of ``out``.
        out: (rows, W, D), contiguous, another tensor than ``v``.

    Returns:
        ``out``.
    """
    rows, width, channels = out.shape
    if not triton.supports(v):
        below = max(0, rows + 1 + top - v.shape[0])
        image = F.pad(v.to(weight.dtype).permute(2, 0, 1)[None], (1, 1, 1 - top, below))
        result = F.conv2d(image, weight.t().reshape(channels, 1, 3, 3), bias, groups=channels)
        return out.copy_(F.silu(result)[0, :, :rows].permute(1, 2, 0))
    from wsi_vmamba.ops.triton_local_kernels import depthwise_kernel

    tile_rows, tile_columns, block = 4, 16, 32
    tiles_w, blocks = ceil_div(width, tile_columns), ceil_div(channels, block)
    with triton.on_device(v):
        depthwise_kernel[(ceil_div(rows, tile_rows) * tiles_w * blocks,)](
            v, weight, weight if bias is None else bias, out, v.shape[0], top, rows, width, channels, tiles_w, blocks,
            BIASED=bias is not None, TH=tile_rows, TW=tile_columns, BD=block, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def gelu_(x: Tensor) -> Tensor:
    """Exact GELU in place, without autograd."""
    return torch.ops.aten.gelu_(x)  # type: ignore[no-any-return]
