"""The scan of the installed ``mamba_ssm`` package, for comparison: four materialised copies, then one kernel."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops.reference import cross_merge, cross_scan

#: Its kernel counts elements in 32 bits and wraps silently beyond; larger maps are refused.
MAX_ELEMENTS = 2**31 - 1


def unavailable_reason() -> str | None:
    """Return why the package's scan cannot run here, or None when it can."""
    if find_spec("mamba_ssm") is None:
        return "mamba_ssm is not installed (pip install 'wsi-vmamba[cuda]')"
    return None if torch.cuda.is_available() else "no CUDA device"


def ss2d_scan(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Tensor:
    """Scan a map in four directions and add the results; see `wsi_vmamba.ops.ss2d_scan` for the shapes.

    Raises:
        UsageError: when the package or a CUDA device is missing, or the four copies would have more elements
            than the package's kernel can count.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise UsageError(f"the mamba_ssm scan cannot run: {reason}")
    batch, height, width, channels = u.shape
    elements = 4 * u.numel()
    if elements > MAX_ELEMENTS:
        raise UsageError(
            f"the mamba_ssm kernel counts at most {MAX_ELEMENTS} elements and would wrap silently at {elements}; "
            "use backend='triton'"
        )
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    us, delta, B, C = materialise(u, proj, dt_weight, state=A_logs.shape[1])
    y = selective_scan_fn(
        us, delta, -torch.exp(A_logs.float()), B, C, Ds.float(), None, dt_bias.reshape(-1).float(), True
    )
    merged = cross_merge(y.view(batch, 4, channels, -1), height=height, width=width)
    return merged.contiguous()


def materialise(
    u: Tensor, proj: Tensor, dt_weight: Tensor, *, state: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay map and projections out in the four token orders, as scans over sequences want them.

    Returns:
        (us, delta) of shape (B, 4 D, L) and (B, C) of shape (B, 4, N, L), all contiguous, dtype of ``u``.
    """
    batch, height, width, channels = u.shape
    rank = dt_weight.shape[2]
    split = proj.reshape(batch, height, width, 4, rank + 2 * state)
    ordered = torch.stack([cross_scan(split[:, :, :, k])[:, k] for k in range(4)], dim=1).to(u.dtype)
    low_rank, B, C = (ordered[:, :, a:b] for a, b in ((0, rank), (rank, rank + state), (rank + state, None)))
    delta = torch.einsum("bkrl,kdr->bkdl", low_rank, dt_weight.to(u.dtype))
    us = cross_scan(u).reshape(batch, 4 * channels, -1)
    return us.contiguous(), delta.reshape(us.shape).contiguous(), B.contiguous(), C.contiguous()
