"""SS2D over whole maps on the CPU: the C++ kernels as a torch operator with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.ops.cpu_module import array, check_shape, native
from wsi_vmamba.ops.packing import ScanWeights, pack_scan, unpack_gradients
from wsi_vmamba.ops.walked_map import suits, walk_map, walk_map_gradients

#: Storage the kernels read maps in; states and sums are float32 always.
STORAGE = (torch.float32, torch.bfloat16)
# Below this many (token, channel, direction) per thread, starting the thread costs more than it saves.
_WORK_PER_THREAD = 400_000


def _threads(u: Tensor, threads: int | None) -> int:
    if threads is not None:
        return threads
    return max(1, min(torch.get_num_threads(), 4 * u.numel() // _WORK_PER_THREAD))


def scan_map(
    u: Tensor,
    proj: Tensor,
    weights: ScanWeights,
    *,
    out: Tensor | None = None,
    threads: int | None = None,
    isa: str = "",
) -> Tensor:
    """Scan maps in four directions, without gradients.

    Args:
        u: (B, H, W, D), float32 or bfloat16.
        proj: (B, H, W, 4 * (R + 2 N)), float32.
        weights: from `pack_scan`.
        out: (B, H, W, D), float32, to write to; None allocates, which costs time for large maps.
        threads: None takes what torch uses, fewer for small maps.
        isa: an entry of `extension.instruction_sets`; empty takes the best.

    Returns:
        ``out``.
    """
    check_shape(u, "u", *u.shape[:3], weights.channels)
    check_shape(proj, "proj", *u.shape[:3], weights.proj_width)
    y = torch.empty(u.shape) if out is None else out
    check_shape(y, "out", *u.shape)
    if u.numel() > 0:
        inputs = array(u, "u", *STORAGE), array(proj, "proj"), *weights.arrays
        native().forward(*inputs, array(y, "out"), _threads(u, threads), isa)
    return y


def scan_map_gradients(
    u: Tensor,
    proj: Tensor,
    weights: ScanWeights,
    grad_y: Tensor,
    *,
    threads: int | None = None,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `scan_map` (``u`` float32) for u, proj, dt_weight, dt_bias, A_logs and Ds, in their shapes."""
    check_shape(u, "u", *u.shape[:3], weights.channels)
    check_shape(proj, "proj", *u.shape[:3], weights.proj_width)
    check_shape(grad_y, "grad_y", *u.shape)
    images, channels = u.shape[0], weights.channels
    used = _threads(u, threads)
    parts = native().backward_ranges(channels, max(images, 1), used)
    grad_u = torch.empty(u.shape)
    grad_proj = torch.empty(parts, *proj.shape)
    packed = [torch.empty(images, *t.shape) for t in weights.arrays]
    if u.numel() > 0:
        inputs = array(u, "u"), array(proj, "proj"), *weights.arrays, array(grad_y, "grad_y")
        native().backward(*inputs, grad_u, grad_proj, *packed, used, isa)
    weight, bias, rate, skip = (t.sum(0) for t in packed)
    return grad_u, grad_proj.sum(0), *unpack_gradients(weights, weight, bias, rate, skip)


@torch.library.custom_op("wsi_vmamba::ss2d_scan", mutates_args=(), device_types="cpu")
def _scan(u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor) -> Tensor:
    u, proj, weights = u.contiguous(), proj.contiguous(), pack_scan(dt_weight, dt_bias, A_logs, Ds)
    if suits(u, weights.state):
        return walk_map(u, proj, weights, threads=_threads(u, None))
    return scan_map(u, proj.float(), weights).to(u.dtype)


@torch.library.custom_op("wsi_vmamba::ss2d_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    u: Tensor,
    proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, proj, weights = u.contiguous(), proj.contiguous(), pack_scan(dt_weight, dt_bias, A_logs, Ds)
    if suits(u, weights.state):
        maps = u, proj, weights, grad_y.to(u.dtype).contiguous()
        grad_u, grad_proj, packed = walk_map_gradients(*maps, threads=_threads(u, None))
        return grad_u, grad_proj, *unpack_gradients(weights, *packed)
    wide = u.float(), proj.float(), weights, grad_y.float().contiguous()
    grad_u, grad_proj, weight, bias, A, D = scan_map_gradients(*wide)
    return grad_u.to(u.dtype), grad_proj.to(proj.dtype), weight, bias, A, D


@_scan.register_fake
def _(u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor) -> Tensor:
    return torch.empty(u.shape, dtype=u.dtype, device=u.device)


@_scan_backward.register_fake
def _(u: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, *others[:-1]))


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _scan_backward(*ctx.saved_tensors, grad_y)
    return result


torch.library.register_autograd("wsi_vmamba::ss2d_scan", _gradients, setup_context=_keep_inputs)


def ss2d_scan(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Tensor:
    """Scan with the C++ kernels, with gradients; see `wsi_vmamba.ops.ss2d_scan` for the shapes.

    ``u`` and ``proj`` are float32 or bfloat16; everything is computed in float32.
    """
    native()
    if proj.dtype not in STORAGE:
        proj = proj.float()
    result: Tensor = _scan(u, proj, dt_weight.float(), dt_bias.float(), A_logs.float(), Ds.float())
    return result
