"""SS3D: the selective scan layer of a volume. Maps are channels-last, (B, T, H, W, C), throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wsi_vmamba.model.ss2d import draw_scan_parameters
from wsi_vmamba.ops import scan_dtype
from wsi_vmamba.ops.volume import PATHS, ss3d_scan

#: Planes that the depthwise convolution across planes sees.
_TAPS = 3


class SS3D(nn.Module):
    """in_proj, depthwise 3x3 in planes and 3 across, SiLU, six scans added, LayerNorm, (gate,) out_proj.

    `wsi_vmamba.ops.volume` says which six. Parameters have the names of `SS2D`, with six sets where that has four, and
    one more: ``conv_t``, the convolution across planes.
    """

    def __init__(
        self, *, d_model: int, d_inner: int, d_state: int, dt_rank: int, gated: bool, conv_bias: bool
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank, self.gated = d_inner, d_state, dt_rank, gated
        self.in_proj = nn.Linear(d_model, d_inner * (2 if gated else 1), bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=conv_bias)
        self.conv_t = nn.Conv1d(d_inner, d_inner, _TAPS, padding=1, groups=d_inner, bias=False)
        self.x_proj_weight = nn.Parameter(torch.empty(PATHS, dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(PATHS, d_inner, dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(PATHS, d_inner))
        self.A_logs = nn.Parameter(torch.empty(PATHS * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(PATHS * d_inner))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        draw_scan_parameters(
            self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, H, W, d_model) -> (B, T, H, W, d_model)."""
        u = self.in_proj(x)
        gate: Tensor | None = None
        if self.gated:
            u, gate = u.chunk(2, dim=-1)
        y = self.out_norm(self._scan(self._convolve(u)))
        if gate is not None:
            y = y * F.silu(gate)
        out: Tensor = self.out_proj(y)
        return out

    def _convolve(self, u: Tensor) -> Tensor:
        batch = len(u)
        within = self.conv2d(rearrange(u, "b t h w c -> (b t) c h w"))
        within = rearrange(within, "(b t) c h w -> b t h w c", b=batch)
        # As sums of shifted planes: a Conv1d would want the planes last in memory.
        taps = self.conv_t.weight[:, 0].unbind(1)
        mixed = within * taps[_TAPS // 2]
        if u.shape[1] > 1:
            around = F.pad(within, (0, 0, 0, 0, 0, 0, 1, 1))
            mixed = torch.addcmul(mixed, around[:, :-2], taps[0])
            mixed = torch.addcmul(mixed, around[:, 2:], taps[2])
        return F.silu(mixed)

    def _scan(self, u: Tensor) -> Tensor:
        work = scan_dtype(u.device, u.dtype)
        proj = F.linear(u, self.x_proj_weight.flatten(0, 1))
        parameters = (self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        return ss3d_scan(u.to(work).contiguous(), proj.to(work), *parameters).to(u.dtype)
