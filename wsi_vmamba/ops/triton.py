"""The four-direction scan on CUDA: tiles of the map in parallel, nothing flipped, copied or materialised.

`wsi_vmamba.ops.triton_kernels` explains the algorithm. The op is registered with torch as
``wsi_vmamba::ss2d_scan_triton``, with shapes for tracing and a gradient that recomputes its states, so it goes
through autocast, ``torch.compile``, activation checkpointing and DDP. ``TRITON_INTERPRET=1`` (set before Triton
is imported) runs the same kernels on the CPU, slowly, for tests.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import triton_plan
from wsi_vmamba.ops.triton_plan import Plan, Tiling, make_plan

#: Dtypes of the maps the kernels take.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Tell whether Triton runs its kernels in Python on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unavailable_reason() -> str | None:
    """Return why the Triton scan cannot run here, or None when it can."""
    if find_spec("triton") is None:
        return "triton is not installed (pip install 'wsi-vmamba[triton]')"
    if not interpreted() and not torch.cuda.is_available():
        return "no CUDA device"
    return None


def supports(tensor: Tensor) -> bool:
    """Tell whether the kernels take maps on the device and of the dtype of ``tensor``."""
    return tensor.dtype in DTYPES and (tensor.is_cuda or (interpreted() and tensor.device.type == "cpu"))


def plan_for(u: Tensor, dt_weight: Tensor, A_logs: Tensor, *, tiling: Tiling | None = None) -> Plan:
    """Return the launch plan for a map ``u`` (B, H, W, D); a ``tiling`` of one's own is for benchmarks and tests."""
    batch, height, width, channels = u.shape
    return make_plan(
        batch=batch, height=height, width=width, channels=channels,
        rank=dt_weight.shape[2], state=A_logs.shape[1], tiling=tiling,
    )  # fmt: skip


def _check(u: Tensor, proj: Tensor, dt_weight: Tensor, A_logs: Tensor) -> None:
    if not supports(u):
        raise UsageError(
            f"the Triton scan takes float32, bfloat16 or float16 maps on a CUDA device, got {u.dtype} on "
            f"{u.device}; use backend='reference' (or 'cpp' for float32 on the CPU)"
        )
    wanted = (*u.shape[:3], 4 * (dt_weight.shape[2] + 2 * A_logs.shape[1]))
    if tuple(proj.shape) != wanted:
        raise UsageError(f"proj must be {wanted}, (B, H, W, 4 (R + 2 N)), got {tuple(proj.shape)}")


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the device of ``tensor`` the current one: Triton launches on that."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@torch.library.custom_op("wsi_vmamba::ss2d_scan_triton", mutates_args=())
def _scan(u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor) -> Tensor:
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    ss2d_scan_into(u, proj, dt_weight, dt_bias, A_logs, Ds, out=out)
    return out


@_scan.register_fake
def _(u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor) -> Tensor:
    return torch.empty(u.shape, dtype=u.dtype, device=u.device)


@torch.library.custom_op("wsi_vmamba::ss2d_scan_triton_backward", mutates_args=())
def _scan_backward(
    gy: Tensor, u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from wsi_vmamba.ops import triton_launch

    _check(u, proj, dt_weight, A_logs)
    inputs = triton_launch.prepare(u, proj, dt_weight, dt_bias, A_logs, Ds)
    with on_device(u):
        plan = plan_for(u, dt_weight, A_logs, tiling=triton_plan.GRADIENT_TILING)
        grads = triton_launch.backward(plan, inputs, gy)
    du, dproj, *parameters = grads
    dW, db, dA, dD = (
        g.to(t.dtype) for g, t in zip(parameters, (dt_weight, dt_bias, A_logs, Ds), strict=True)
    )
    return du, dproj, dW, db, dA, dD


@_scan_backward.register_fake
def _(
    gy: Tensor, u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    du, dproj, dW, db, dA, dD = (
        torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (u, proj, dt_weight, dt_bias, A_logs, Ds)
    )
    return du, dproj, dW, db, dA, dD


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
    grads: tuple[Tensor, ...] = _scan_backward(gy, *ctx.saved_tensors)
    return grads


_scan.register_autograd(_differentiate, setup_context=_keep_inputs)


def ss2d_scan(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Tensor:
    """Scan a map in four directions and add the results; see `wsi_vmamba.ops.ss2d_scan` for the shapes.

    Maps may be float32, bfloat16 or float16, and strided in all but the channels; states, steps and sums are
    float32. Differentiable once.

    Raises:
        UsageError: for a map of another dtype or device, or a ``proj`` of another shape.
    """
    result: Tensor = _scan(u, proj, dt_weight, dt_bias, A_logs, Ds)
    return result


def ss2d_scan_into(
    u: Tensor,
    proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    out: Tensor,
    tiling: Tiling | None = None,
) -> None:
    """Scan without gradients and write to ``out``, which may be ``u`` itself: inference with no second map.

    Raises:
        UsageError: as `ss2d_scan`; also when ``out`` has another shape or strided channels.
    """
    from wsi_vmamba.ops import triton_launch

    _check(u, proj, dt_weight, A_logs)
    if out.shape != u.shape or out.stride(3) != 1:
        raise UsageError(f"out must be {tuple(u.shape)} with channel stride 1, got {tuple(out.shape)}")
    inputs = triton_launch.prepare(u, proj, dt_weight, dt_bias, A_logs, Ds)
    with torch.no_grad(), on_device(u):
        triton_launch.forward(plan_for(u, dt_weight, A_logs, tiling=tiling), inputs, out)
