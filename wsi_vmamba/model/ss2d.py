"""SS2D: the two-dimensional selective scan layer. Maps are channels-last, (B, H, W, C), throughout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wsi_vmamba.ops import scan_dtype, ss2d_scan

DIRECTIONS = 4
#: Range the softplus of the initial dt biases is drawn from (log-uniform), and its floor.
_DT_RANGE = (1e-3, 0.1)
_DT_FLOOR = 1e-4


class SS2D(nn.Module):
    """in_proj, depthwise 3x3 + SiLU, four scans added, LayerNorm, (gate,) out_proj.

    x_proj, dt_proj, A and D are separate per direction, as in every published checkpoint, unless
    ``share_directions``; parameter names and shapes are the checkpoints' own.
    """

    def __init__(
        self,
        *,
        d_model: int,
        d_inner: int,
        d_state: int,
        dt_rank: int,
        gated: bool,
        conv_bias: bool,
        share_directions: bool = False,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank, self.gated = d_inner, d_state, dt_rank, gated
        sets = 1 if share_directions else DIRECTIONS
        self.in_proj = nn.Linear(d_model, d_inner * (2 if gated else 1), bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(sets, dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(sets, d_inner, dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(sets, d_inner))
        self.A_logs = nn.Parameter(torch.empty(sets * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(sets * d_inner))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.reset_scan_parameters()

    def reset_scan_parameters(self) -> None:
        """Draw the scan's own parameters; see `draw_scan_parameters`."""
        draw_scan_parameters(
            self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds
        )

    def scan_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(x_proj (4, R + 2N, d_inner), dt weight, dt bias, A_logs, Ds) with all four directions spelt out."""
        sets = self.x_proj_weight.shape[0]
        own = (self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        if sets == DIRECTIONS:
            return own
        x_proj, dt_weight, dt_bias, A_logs, Ds = own
        return (
            repeat(x_proj, "1 rows d -> k rows d", k=DIRECTIONS),
            repeat(dt_weight, "1 d rank -> k d rank", k=DIRECTIONS),
            repeat(dt_bias, "1 d -> k d", k=DIRECTIONS),
            repeat(A_logs, "d n -> (k d) n", k=DIRECTIONS),
            repeat(Ds, "d -> (k d)", k=DIRECTIONS),
        )

    def scan_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is scanned of a map (B, H, W, d_model).

        Returns:
            u (B, H, W, d_inner), its projections as of `project`, and the gate before its SiLU, (B, H, W, d_inner);
            None where there is none.
        """
        u, gate = self.scanned_and_gate(x)
        return u, self.project(u), gate

    def scanned_and_gate(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first and the last that `scan_inputs` gives."""
        u = self.in_proj(x)
        gate: Tensor | None = None
        if self.gated:
            u, gate = u.chunk(2, dim=-1)
        u = F.silu(self.conv2d(rearrange(u, "b h w c -> b c h w")))
        return rearrange(u, "b c h w -> b h w c"), gate

    def project(self, u: Tensor) -> Tensor:
        """Step sizes, B and C of the four scans of u (B, H, W, d_inner): (B, H, W, 4 * (R + 2 N)), see `ss2d_scan`."""
        # The four projections are one matmul on tokens in map order; the scans walk the map, not copies.
        return F.linear(u, rearrange(self.scan_parameters()[0], "k rows d -> (k rows) d"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d_model) -> (B, H, W, d_model)."""
        u, gate = self.scanned_and_gate(x)
        return self.after_scan(self.scan(u), gate)

    def gate(self, x: Tensor) -> Tensor:
        """The gate alone before its SiLU, of a map of a layer that has one: (B, H, W, d_inner)."""
        gate: Tensor = self.in_proj(x).chunk(2, dim=-1)[1]
        return gate

    def after_scan(self, y: Tensor, gate: Tensor | None) -> Tensor:
        """From the scan and the gate, both (B, H, W, d_inner), to what is added to the map (B, H, W, d_model)."""
        y = self.out_norm(y)
        if gate is not None:
            y = y * F.silu(gate)
        out: Tensor = self.out_proj(y)
        return out

    def scan(self, u: Tensor) -> Tensor:
        """Project the map u (B, H, W, d_inner), scan it and add the four results."""
        _, dt_weight, dt_bias, A_logs, Ds = self.scan_parameters()
        # Recurrences always run in float32: kernels see to it themselves, for the reference maps are converted.
        work = scan_dtype(u.device, u.dtype)
        y = ss2d_scan(u.to(work).contiguous(), self.project(u).to(work), dt_weight, dt_bias, A_logs, Ds)
        return y.to(u.dtype)


@torch.no_grad()
def draw_scan_parameters(
    x_proj_weight: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> None:
    """Draw a scan's parameters in place: A = -(1..N), D = 1, step sizes log-uniform in [0.001, 0.1]."""
    bound = 1 / math.sqrt(x_proj_weight.shape[-1])  # the default of nn.Linear with this fan-in
    x_proj_weight.uniform_(-bound, bound)
    rank, state = dt_weight.shape[-1], A_logs.shape[-1]
    dt_weight.uniform_(-(rank**-0.5), rank**-0.5)
    low, high = (math.log(limit) for limit in _DT_RANGE)
    dt = torch.empty_like(dt_bias).uniform_(low, high).exp_().clamp_min_(_DT_FLOOR)
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
    A_logs.copy_(torch.arange(1, state + 1).log().expand_as(A_logs))
    Ds.fill_(1.0)
