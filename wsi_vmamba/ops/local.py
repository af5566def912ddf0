"""Operators of the inference encoder that look at one token or its neighbours: one thread, no copies."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops.cpu_module import array, check_shape, native
from wsi_vmamba.ops.whole_map import STORAGE


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    out: Tensor | None = None,
    gate: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    """Normalise over the last axis with float32 statistics, scale, shift, and multiply by ``gate`` if given.

    Args:
        x: (..., D), float32 or bfloat16.
        weight: (D,), float32.
        bias: (D,), float32.
        eps: added to the variance.
        out: same shape as ``x``, float32 or bfloat16; None makes one like ``x``. It may be ``x`` itself.
        gate: same shape and dtype as ``x``, or None.
        isa: instruction set; empty takes the best.

    Returns:
        ``out``.
    """
    if out is None:
        out = torch.empty_like(x)
    check_shape(weight, "weight", x.shape[-1])
    check_shape(out, "out", *x.shape)
    factor = None
    if gate is not None:
        check_shape(gate, "gate", *x.shape)
        factor = array(gate, "gate", x.dtype)
    arrays = array(x, "x", *STORAGE), array(out, "out", *STORAGE), factor
    native().layer_norm(*arrays, array(weight, "weight"), array(bias, "bias"), eps, isa)
    return out


def depthwise_silu(
    rows: Tensor, weight: Tensor, bias: Tensor | None, *, out: Tensor, isa: str = ""
) -> Tensor:
    """Depthwise 3x3 convolution followed by SiLU over a strip, channels last.

    Args:
        rows: (n + 2, W, D), float32 or bfloat16: the strip and one row above and below (zeros at the border
            of the map). Columns outside the map count as zeros.
        weight: (9, D), float32, taps row by row.
        bias: (D,), float32, or None.
        out: (n, W, D), dtype of ``rows``; must not overlap ``rows``.
        isa: instruction set; empty takes the best.

    Returns:
        ``out``.
    """
    height, width, channels = rows.shape
    check_shape(out, "out", height - 2, width, channels)
    check_shape(weight, "weight", 9, channels)
    if rows.dtype != out.dtype:
        raise UsageError(f"out must have the dtype of rows, {rows.dtype}, got {out.dtype}")
    shift = None if bias is None else array(bias, "bias")
    arrays = array(rows, "rows", *STORAGE), array(weight, "weight"), shift, array(out, "out", *STORAGE)
    native().depthwise_silu(*arrays, isa)
    return out


def silu_(x: Tensor, *, isa: str = "") -> Tensor:
    """Replace ``x`` (any shape, float32 or bfloat16) by x / (1 + exp(-x)) and return it."""
    native().silu_in_place(array(x, "x", *STORAGE), isa)
    return x
