"""What the scans of SS2D bring from every token to one: the exact weights of the linear recurrence.

Given dt, B and C, which each token makes of itself, a scan is linear in its input u. In the order of its walk,
channel by channel, with A < 0:

    y_t = sum over s <= t of w_ts u_s + D u_t,    w_ts = sum over states of C_t exp(A (dt_(s+1) + ... + dt_t)) dt_s B_s
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.model.ss2d import DIRECTIONS, SS2D

#: Tokens whose decays of all states are in memory at once.
_CHUNK_TOKENS = 4096


def scan_weights(op: SS2D, proj: Tensor, *, row: int, column: int) -> Tensor:
    """Weights of every token in what each scan gives one token; the skip D is left out.

    Args:
        op: whose scan it is.
        proj: (H, W, 4 * (R + 2 N)), from `SS2D.scan_inputs`.
        row: of the token on the map.
        column: of the token on the map.

    Returns:
        (4, H, W, d_inner) float64; 0 of tokens that a scan meets later.
    """
    height, width = proj.shape[:2]
    _, dt_weight, dt_bias, A_logs, _ = (one.double() for one in op.scan_parameters())
    rates = -torch.exp(A_logs).view(DIRECTIONS, op.d_inner, op.d_state)
    of_scans = proj.double().reshape(height, width, DIRECTIONS, -1)
    found = of_scans.new_zeros(DIRECTIONS, height, width, op.d_inner)
    for scan in range(DIRECTIONS):
        walked = _walk(of_scans[:, :, scan], scan)
        last = _step(scan, row, column, height=height, width=width)
        weights = _weights_of_walk(
            walked[: last + 1], dt_weight[scan], dt_bias[scan], rates[scan], rank=op.dt_rank
        )
        whole = of_scans.new_zeros(height * width, op.d_inner)
        whole[: last + 1] = weights
        found[scan] = _unwalk(whole, scan, height=height, width=width)
    return found


def _weights_of_walk(proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, rates: Tensor, *, rank: int) -> Tensor:
    """Weights (T, d) of the tokens of a walk in what it gives its last one; ``proj`` is (T, R + 2 N)."""
    state = rates.shape[1]
    low_rank, B, C = torch.split(proj, [rank, state, state], dim=1)
    dt = F.softplus(low_rank @ dt_weight.T + dt_bias)
    # Steps between a token and the last: summed from the last backwards, so that near ones lose no digits.
    until_last = dt.flip(0).cumsum(0).flip(0) - dt
    parts = []
    for start in range(0, len(proj), _CHUNK_TOKENS):
        piece = slice(start, start + _CHUNK_TOKENS)
        decay = torch.exp(until_last[piece, :, None] * rates)
        parts.append(torch.einsum("tdn,tn,n->td", decay, B[piece], C[-1]) * dt[piece])
    return torch.cat(parts)


def _walk(values: Tensor, scan: int) -> Tensor:
    """Tokens of a map (H, W, X) in the order of a scan, (H W, X)."""
    ordered = (values if scan % 2 == 0 else values.transpose(0, 1)).flatten(0, 1)
    return ordered if scan < 2 else ordered.flip(0)


def _unwalk(values: Tensor, scan: int, *, height: int, width: int) -> Tensor:
    """The map of tokens in the order of a scan."""
    forwards = values if scan < 2 else values.flip(0)
    if scan % 2 == 0:
        return forwards.view(height, width, -1)
    return forwards.view(width, height, -1).transpose(0, 1)


def _step(scan: int, row: int, column: int, *, height: int, width: int) -> int:
    """How many tokens a scan has met before one."""
    forwards = row * width + column if scan % 2 == 0 else column * height + row
    return forwards if scan < 2 else height * width - 1 - forwards
