"""Selective scans: the reference in torch, the fast kernels, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wsi_vmamba.ops import cpu, tokens, triton
from wsi_vmamba.ops.reference import selective_scan
from wsi_vmamba.registry import Table

__all__ = ["BACKENDS", "choose_backend", "cpu", "scan_dtype", "selective_scan", "ss2d_scan", "tokens"]

#: Implementations of `ss2d_scan`, all with the signature of the reference.
BACKENDS = Table(
    "scan backend",
    {
        "cpp": "wsi_vmamba.ops.cpu:ss2d_scan",
        "triton": "wsi_vmamba.ops.triton:ss2d_scan",
        "mamba_ssm": "wsi_vmamba.ops.mamba_ssm:ss2d_scan",
        "reference": "wsi_vmamba.ops.reference:ss2d_scan",
    },
)


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Return the name in `BACKENDS` that suits maps of ``dtype`` on ``device``, and why."""
    if device.type == "cuda":
        missing = triton.unavailable_reason()
        if missing is not None:
            return "reference", missing
        if dtype not in triton.DTYPES:
            return "reference", f"the Triton kernel does not take {dtype}"
        return "triton", f"Triton kernel, {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return "reference", f"no fast kernel for device {device.type}"
    if not cpu.available:
        return "reference", cpu.why
    if not cpu.supports(dtype):
        return "reference", f"the C++ kernel computes in float32, not {dtype}"
    return "cpp", f"C++ kernel, {cpu.isa}"


def scan_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to hand maps of ``dtype`` to `ss2d_scan` in, so that the recurrence runs in float32 at least."""
    if device.type == "cuda" or (device.type == "cpu" and cpu.available and cpu.supports(dtype)):
        return dtype
    return torch.promote_types(dtype, torch.float32)


#: Implementations in use, by name: a plain dictionary, which torch.compile can look into.
_LOADED: dict[str, Callable[..., Tensor]] = {}


def _load(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Choose and import an implementation, under torch.compile once, while tracing; return its name."""
    name = backend if backend is not None else choose_backend(device, dtype)[0]
    if name not in _LOADED:
        _LOADED[name] = BACKENDS.resolve(name)
    return name


# All that torch.compiler.assume_constant_result does; calling it imports the compiler, which costs every start 1.3 s.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def ss2d_scan(
    u: Tensor,
    proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Scan a channels-last map in four directions and add the four results, the skip ``Ds`` included.

    Direction 0 walks the map row by row, 1 column by column, 2 and 3 are the reverses of 0 and 1. Each
    direction k computes ``dt = softplus(dt_weight[k] dt_r + dt_bias[k])`` and then
    ``h = exp(dt A) h + dt B u``, ``y = C . h + Ds u`` with ``A = -exp(A_logs)``.

    Args:
        u: (B, H, W, D).
        proj: (B, H, W, 4 * (R + 2 N)); per token and direction [dt_r (R) | B (N) | C (N)], in map order.
        dt_weight: (4, D, R).
        dt_bias: (4, D).
        A_logs: (4 * D, N).
        Ds: (4 * D,).
        backend: a name in `BACKENDS`; None chooses by device and dtype.

    Returns:
        (B, H, W, D), dtype of ``u``, not normalised.
    """
    name: str = _load(backend, u.device, u.dtype)
    return _LOADED[name](u, proj, dt_weight, dt_bias, A_logs, Ds)
