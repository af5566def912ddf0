"""SS2D over the tissue patches of a slide: the background is skipped, and that is exact."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_vmamba.mil.grid import PatchGrid, grid_convolve
from wsi_vmamba.ops import ss2d_scan

DIRECTIONS = 4
#: Directions of `ss2d_scan` that walk row by row and column by column, forwards and backwards.
_BY_ROW, _BY_COLUMN = (0, 2), (1, 3)
#: Step sizes that the initial biases give (log-uniform): memories of half a patch to 20 patches, the sizes of lesions.
_DT_RANGE = (0.05, 2.0)
#: The most a bias is moved by the data, before the softplus: a step size stays below about bias + this, whatever
#: the features.
_DT_REACH = 4.0


class GridScan(nn.Module):
    """Four selective scans over the patches of a slide: by row and by column, forwards and backwards, added.

    A background patch is one with a step size of zero: there h = exp(0 A) h + 0 B u = h, so the state crosses
    it as it is and the patch can be left out. What remains are two sequences of N patches, however far apart
    they lie. On a full rectangle the result is that of `wsi_vmamba.ops.ss2d_scan` over the map.

    A is kept as ``A_logs``, A = -exp(A_logs), and like the scan in float32 under autocast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rank = max(1, math.ceil(channels / 16))
        self.norm = nn.LayerNorm(channels)
        self.x_proj = nn.Linear(channels, DIRECTIONS * (self.rank + 2), bias=False)
        bound = self.rank**-0.5
        self.dt_weight = nn.Parameter(torch.empty(DIRECTIONS, channels, self.rank).uniform_(-bound, bound))
        low, high = (math.log(limit) for limit in _DT_RANGE)
        dt = torch.empty(DIRECTIONS, channels).uniform_(low, high).exp_()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_logs = nn.Parameter(torch.zeros(DIRECTIONS * channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))

    def forward(self, u: Tensor, grid: PatchGrid) -> Tensor:
        """Scan patches (N, channels), row by row, float32 or float64; returns the same shape."""
        proj = self._project(u)
        y = u * self.skip + self._scan(u, proj, keep=_BY_ROW)
        order = grid.columns_first
        by_column = self._scan(u[order], proj[order], keep=_BY_COLUMN)
        return y + by_column[torch.argsort(order)]

    def _project(self, u: Tensor) -> Tensor:
        """Per patch and direction [dt_r | B | C], (N, 4, rank + 2); dt_r is bounded, so step sizes are."""
        proj = self.x_proj(self.norm(u)).unflatten(1, (DIRECTIONS, self.rank + 2))
        dt_r, others = proj.split([self.rank, 2], dim=2)
        reach = _DT_REACH / self.rank**0.5
        return torch.cat([reach * torch.tanh(dt_r / reach), others], dim=2)

    def _scan(self, u: Tensor, proj: Tensor, *, keep: tuple[int, int]) -> Tensor:
        """Scan a sequence forwards and backwards with the parameters of two of the four directions."""
        # A map one patch wide is walked alike by row and by column; C = 0 silences the directions of the other.
        heard = torch.zeros(DIRECTIONS, 1, dtype=u.dtype, device=u.device)
        heard[list(keep)] = 1.0
        proj = torch.cat([proj[:, :, :-1], proj[:, :, -1:] * heard], dim=2)
        length, channels = u.shape
        y = ss2d_scan(
            u.view(1, length, 1, channels),
            proj.reshape(1, length, 1, -1),
            self.dt_weight,
            self.dt_bias,
            self.A_logs,
            u.new_zeros(DIRECTIONS * channels),
        )
        return y.view(length, channels)


class GridContext(nn.Module):
    """What surrounds each patch: 3 x 3 depthwise convolution, SiLU, `GridScan`.

    VMamba's SS2D layer on the grid of one slide's tissue patches, without its norms: a patch stays as large beside its
    context as it is. The convolution starts as the mean of the 3 x 3 patches, give or take a little. With the norms, or
    from random weights, it overfitted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_weight = nn.Parameter(1 / 9 + torch.empty(9, channels).uniform_(-1 / 30, 1 / 30))
        self.conv_bias = nn.Parameter(torch.zeros(channels))
        self.scan = GridScan(channels)

    def forward(self, patches: Tensor, grid: PatchGrid) -> Tensor:
        """Patches (N, channels), row by row, to their context (N, channels), float32 or float64."""
        mixed = grid_convolve(patches, self.conv_weight, grid.neighbours(1)) + self.conv_bias
        context: Tensor = self.scan(F.silu(mixed), grid)
        return context
