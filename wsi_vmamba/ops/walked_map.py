"""SS2D over small maps on the CPU, token by token: what training meets. `whole_map.py` is for maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_vmamba.ops.cpu_module import array, check_shape, native
from wsi_vmamba.ops.packing import ScanWeights

#: Storage of maps and of projections; states and sums are float32 always.
STORAGE = (torch.float32, torch.bfloat16)
#: Tokens of the largest map that is walked: what is kept of one block of channels fits the second-level cache.
MOST_TOKENS = 4096
#: Shares that the gradients of the weights are added up in, whatever the number of threads.
_SHARES = 16


def suits(u: Tensor, state: int) -> bool:
    """Tell whether maps like ``u`` (B, H, W, D) with ``state`` states per channel are better walked token by token."""
    return state == 1 and 0 < u.shape[1] * u.shape[2] <= MOST_TOKENS


def walk_map(u: Tensor, proj: Tensor, weights: ScanWeights, *, threads: int, isa: str = "") -> Tensor:
    """Scan maps in four directions, without gradients.

    Args:
        u: (B, H, W, D), float32 or bfloat16.
        proj: (B, H, W, 4 * (R + 2)), float32 or bfloat16.
        weights: from `pack_scan`, one state per channel.
        threads: how many; the result does not depend on it.
        isa: an entry of `extension.instruction_sets`; empty takes the best.

    Returns:
        (B, H, W, D), dtype of ``u``.
    """
    check_shape(u, "u", *u.shape[:3], weights.channels)
    check_shape(proj, "proj", *u.shape[:3], weights.proj_width)
    y = torch.empty_like(u)
    if u.numel() > 0:
        inputs = array(u, "u", *STORAGE), array(proj, "proj", *STORAGE), *weights.arrays
        native().walk(*inputs, array(y, "y", *STORAGE), threads, isa)
    return y


def walk_map_gradients(
    u: Tensor, proj: Tensor, weights: ScanWeights, grad_y: Tensor, *, threads: int, isa: str = ""
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Gradients of `walk_map` for u, proj (in their dtypes) and the packed arrays of ``weights`` (natural units)."""
    check_shape(u, "u", *u.shape[:3], weights.channels)
    check_shape(proj, "proj", *u.shape[:3], weights.proj_width)
    check_shape(grad_y, "grad_y", *u.shape)
    grad_u, grad_proj = torch.empty_like(u), torch.empty_like(proj)
    packed = [torch.empty(min(u.shape[0], _SHARES), *t.shape) for t in weights.arrays]
    if u.numel() > 0:
        inputs = array(u, "u", *STORAGE), array(proj, "proj", *STORAGE), *weights.arrays
        outputs = array(grad_u, "grad_u", *STORAGE), array(grad_proj, "grad_proj", *STORAGE), *packed
        native().walk_gradients(*inputs, array(grad_y, "grad_y", u.dtype), *outputs, threads, isa)
    weight, bias, rate, skip = (t.sum(0) for t in packed)
    return grad_u, grad_proj, (weight, bias, rate, skip)
