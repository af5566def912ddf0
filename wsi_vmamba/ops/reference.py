"""Selective scan and SS2D in plain torch: the truth the fast kernels are measured against.

Works in any floating dtype (bf16 and fp16 inputs are computed in float32), on any device, with autograd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Tokens whose coefficients are materialised at once; bounds memory, does not change results.
_CHUNK_TOKENS = 1024


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Run ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = C_t . h_t + D u_t`` along the last axis.

    Args:
        u: input, (batch, K * d, L): K groups of d channels that share B and C.
        delta: step sizes, shape of ``u``.
        A: decay rates, (K * d, N), normally negative.
        B: input projections, (batch, K, N, L).
        C: output projections, (batch, K, N, L).
        D: skip weights, (K * d,), or None for no skip.
        delta_bias: added to ``delta``, (K * d,), or None.
        delta_softplus: pass ``delta`` (after the bias) through softplus with threshold 20.

    Returns:
        y, shape and dtype of ``u``.
    """
    out_dtype = u.dtype
    work = torch.promote_types(torch.float32, u.dtype)
    u, delta, A, B, C = (t.to(work) for t in (u, delta, A, B, C))
    batch, channels, length = u.shape
    groups, state = B.shape[1], B.shape[2]
    if delta_bias is not None:
        delta = delta + delta_bias.to(work)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    grouped = (batch, groups, channels // groups)
    rates = A.view(groups, channels // groups, state, 1)
    h = u.new_zeros(*grouped, state)
    outputs: list[Tensor] = []
    for start in range(0, length, _CHUNK_TOKENS):
        piece = slice(start, min(start + _CHUNK_TOKENS, length))
        step = delta[..., piece].view(*grouped, 1, -1)
        decay = torch.exp(step * rates)
        drive = step * B[:, :, None, :, piece] * u[..., piece].view(*grouped, 1, -1)
        states: list[Tensor] = []
        # Unbound at once: the gradient of each token taken by its index would be a tensor of all tokens of the piece.
        for kept, added in zip(decay.unbind(-1), drive.unbind(-1), strict=True):
            h = kept * h + added
            states.append(h)
        y = torch.einsum("bgdnl,bgnl->bgdl", torch.stack(states, dim=-1), C[..., piece])
        outputs.append(y.reshape(batch, channels, -1))
    y = torch.cat(outputs, dim=-1)
    if D is not None:
        y = y + u * D.to(work)[:, None]
    return y.to(out_dtype)


def cross_scan(x: Tensor) -> Tensor:
    """Unfold a map (B, H, W, D) into the four token orders, (B, 4, D, L) with L = H * W.

    Order 0 is row-major, 1 column-major, 2 and 3 are the reverses of 0 and 1.
    """
    rows = x.permute(0, 3, 1, 2).flatten(2)
    columns = x.permute(0, 3, 2, 1).flatten(2)
    return torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], dim=1)


def cross_merge(y: Tensor, *, height: int, width: int) -> Tensor:
    """Put the four token orders (B, 4, D, L) back on the map and add them: (B, height, width, D)."""
    batch, _, channels, _ = y.shape
    rows = y[:, 0] + y[:, 2].flip(-1)
    columns = y[:, 1] + y[:, 3].flip(-1)
    merged = rows.view(batch, channels, height, width)
    merged = merged + columns.view(batch, channels, width, height).transpose(2, 3)
    return merged.permute(0, 2, 3, 1)


def ss2d_scan(
    u: Tensor,
    proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    """Scan a map in four directions and add the results; see `wsi_vmamba.ops.ss2d_scan` for the shapes.

    Computes in float32 at least, under autocast too; returns the dtype of ``u``.
    """
    with torch.autocast(u.device.type, enabled=False):
        work = torch.promote_types(torch.float32, u.dtype)
        inputs = (t.to(work) for t in (u, proj, dt_weight, dt_bias, A_logs, Ds))
        return _ss2d_scan(*inputs).to(u.dtype)


def _ss2d_scan(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Tensor:
    batch, height, width, channels = u.shape
    rank, state = dt_weight.shape[2], A_logs.shape[1]
    # Each direction has its own (dt_r | B | C); lay each out in that direction's token order.
    split = proj.reshape(batch, height, width, 4, rank + 2 * state)
    ordered = torch.stack([cross_scan(split[:, :, :, k])[:, k] for k in range(4)], dim=1)
    low_rank, B, C = torch.split(ordered, [rank, state, state], dim=2)
    delta = torch.einsum("bkrl,kdr->bkdl", low_rank, dt_weight)
    y = selective_scan(
        cross_scan(u).reshape(batch, 4 * channels, -1),
        delta.reshape(batch, 4 * channels, -1),
        -torch.exp(A_logs),
        B,
        C,
        Ds,
        dt_bias.reshape(-1),
        delta_softplus=True,
    )
    merged = cross_merge(y.view(batch, 4, channels, -1), height=height, width=width)
    return merged.contiguous()
