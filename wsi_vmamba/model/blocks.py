"""The parts of a VMamba other than the scan: block, MLP, stem and downsampling. Maps are (B, H, W, C)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wsi_vmamba.model import fused
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.drop_path import drop_path
from wsi_vmamba.model.ss2d import SS2D


class Permute(nn.Module):
    """Reorder axes; it has no parameters and keeps the numbering of the published nn.Sequential keys."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Permute ``x`` to the axes given at construction."""
        return x.permute(self.axes)


def _to_last() -> Permute:
    return Permute(0, 2, 3, 1)


def _to_first() -> Permute:
    return Permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear, exact GELU, linear, on every token."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, hidden)
        self.fc2 = nn.Linear(hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_model) -> (..., d_model)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


def scan_sizes(config: VMambaConfig, stage: int) -> dict[str, Any]:
    """What shapes the scan layer of a stage, of a map or of a volume."""
    return {
        "d_model": config.dims[stage],
        "d_inner": config.d_inner(stage),
        "d_state": config.d_state,
        "dt_rank": config.dt_rank(stage),
        "gated": config.gated,
        "conv_bias": config.conv_bias,
    }


class ResidualBlock(nn.Module):
    """``x += op(norm(x))``, then ``x += MLP(norm2(x))`` where the variant has an MLP; tokens are channels-last."""

    norm2: nn.LayerNorm | None
    mlp: Mlp | None
    #: Of each branch in training; see `set_drop_path`.
    drop_path_rate: float = 0.0

    def __init__(self, config: VMambaConfig, stage: int, op: nn.Module) -> None:
        super().__init__()
        d_model = config.dims[stage]
        self.norm = nn.LayerNorm(d_model)
        self.op = op
        has_mlp = config.mlp_ratio > 0
        self.norm2 = nn.LayerNorm(d_model) if has_mlp else None
        self.mlp = Mlp(d_model, int(config.mlp_ratio * d_model)) if has_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ..., d_model) -> (B, ..., d_model)."""
        return self._add_mlp(x + self._kept(self.op(self.norm(x))))

    def _add_mlp(self, x: Tensor) -> Tensor:
        if self.norm2 is None or self.mlp is None:
            return x
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, branch: Tensor) -> Tensor:
        return drop_path(branch, rate=self.drop_path_rate, training=self.training)


class Block(ResidualBlock):
    """`ResidualBlock` with an SS2D."""

    op: SS2D

    def __init__(self, config: VMambaConfig, stage: int) -> None:
        op = SS2D(**scan_sizes(config, stage), share_directions=config.share_directions)
        super().__init__(config, stage, op)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d_model) -> (B, H, W, d_model)."""
        return fused.block(x, self) if fused.suits_block(x, self) else super().forward(x)

    def before_scan(self, x: Tensor) -> Tensor:
        """What is scanned of a map (B, H, W, d_model): (B, H, W, d_inner)."""
        if fused.suits_block(x, self):
            return fused.before_scan(x, self)
        return self.op.scanned_and_gate(self.norm(x))[0]

    def after_scan(self, x: Tensor, y: Tensor) -> Tensor:
        """The block's result, from the map (B, H, W, d_model) and its scan (B, H, W, d_inner); each token by itself."""
        if fused.suits_block(x, self):
            return fused.after_scan(x, y, self)
        gate = self.op.gate(self.norm(x)) if self.op.gated else None
        return self._add_mlp(x + self._kept(self.op.after_scan(y, gate)))


def patch_embed(config: VMambaConfig) -> nn.Sequential:
    """Stem from an image (B, 3, H, W) to tokens (B, ~H/4, ~W/4, dims[0])."""
    width = config.dims[0]
    if config.patch_embed == 1:
        return nn.Sequential(nn.Conv2d(3, width, 4, stride=4), _to_last(), nn.LayerNorm(width))
    return Stem(
        nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
        _to_last(),
        nn.LayerNorm(width // 2),
        _to_first(),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        _to_last(),
        nn.LayerNorm(width),
    )


class Stem(nn.Sequential):
    """Convolution, norm, GELU, convolution, norm, with the published numbering."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) -> (B, ~H/4, ~W/4, D)."""
        if fused.suits_images(x, self):
            return fused.stem(x, self)
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out


class DownsampleConv(nn.Sequential):
    """Convolution 3x3 with stride 2 and norm, with the published numbering."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d_in) -> (B, ceil(H/2), ceil(W/2), d_out)."""
        if fused.suits(x, self):
            return fused.downsample(x, self)
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out


class PatchMerging(nn.Module):
    """2x2 neighbours side by side, normalised and projected; an odd last row or column is padded with zeros."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * d_in, d_out, bias=False)
        self.norm = nn.LayerNorm(4 * d_in)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d_in) -> (B, ceil(H/2), ceil(W/2), d_out)."""
        out: Tensor = self.reduction(self.norm(merge_neighbours(x)))
        return out


def merge_neighbours(x: Tensor) -> Tensor:
    """Stack each 2x2 square of tokens along the channels in the published order (column by column)."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    return rearrange(x, "b (h down) (w right) c -> b h w (right down c)", down=2, right=2)


def downsample(config: VMambaConfig, stage: int) -> nn.Module:
    """The downsampling between ``stage`` and the next one: halves both sides (rounding up for versions 1 and 3)."""
    if stage == len(config.dims) - 1:
        return nn.Identity()
    d_in, d_out = config.dims[stage : stage + 2]
    if config.downsample == 1:
        return PatchMerging(d_in, d_out)
    if config.downsample == 2:
        conv = nn.Conv2d(d_in, d_out, 2, stride=2)
        return nn.Sequential(_to_first(), conv, _to_last(), nn.LayerNorm(d_out))
    conv = nn.Conv2d(d_in, d_out, 3, stride=2, padding=1)
    return DownsampleConv(_to_first(), conv, _to_last(), nn.LayerNorm(d_out))
