"""The UPerNet head: pyramid pooling on the last map, a feature pyramid upwards, all of it fused at stride 4.

It is UPerNet as published but for two things. Norms are over the channels of each token, so that a batch of one will
do and a row knows nothing of other rows but through convolutions. And the cells of the pooling have the extent that
they have in a training crop, however large the map is: in a region of 10,000 px there are more of them, not larger
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Rows of a map above and below a band that the two convolutions at stride 4 look at.
_REACH = 2


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """What shapes a head.

    Attributes:
        dims: channels of the four maps, finest first.
        outputs: classes that it tells apart.
        channels: width of everything in it.
        pool_scales: cells of the pooling along each side of a training crop.
        crop_tokens: side of a training crop in tokens of the last map.
        dropout: share of the fused channels that is dropped in training.
    """

    dims: tuple[int, ...]
    outputs: int
    channels: int
    pool_scales: tuple[int, ...]
    crop_tokens: int
    dropout: float


class ChannelNorm(nn.LayerNorm):
    """A norm over the channels of each token of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def unit(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    """A convolution, a norm and a rectifier; maps keep their size."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, ChannelNorm(outputs), nn.ReLU())


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """What a head has made of the coarser maps; the finest is taken in bands of rows.

    Attributes:
        above: the merged map of stride 8, which the finest is added to.
        refined: the maps of strides 8, 16 and 32 that are fused with it.
    """

    above: Tensor
    refined: tuple[Tensor, ...]


class UPerNet(nn.Module):
    """Maps (B, C_i, H_i, W_i) of strides 4, 8, 16, 32 to logits (B, outputs, H_0, W_0)."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        width, dims = settings.channels, settings.dims
        self.norms = nn.ModuleList(ChannelNorm(dim) for dim in dims)
        self.pooled = nn.ModuleList(unit(dims[-1], width, kernel=1) for _ in settings.pool_scales)
        self.context = unit(dims[-1] + len(settings.pool_scales) * width, width, kernel=3)
        self.laterals = nn.ModuleList(unit(dim, width, kernel=1) for dim in dims[:-1])
        self.refine = nn.ModuleList(unit(width, width, kernel=3) for _ in dims[:-1])
        self.fuse = unit(len(dims) * width, width, kernel=3)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classify = nn.Conv2d(width, settings.outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return self.rows(maps[0], self.pyramid(maps[1:]), first=0, last=maps[0].shape[2])

    def pyramid(self, coarser: Sequence[Tensor]) -> Pyramid:
        """What is made of the maps of strides 8, 16 and 32, whole."""
        merged = [self._context(self.norms[-1](coarser[-1]))]
        for stage in range(len(coarser) - 1, 0, -1):
            finer = coarser[stage - 1]
            lateral = self.laterals[stage](self.norms[stage](finer))
            merged.append(lateral + resized(merged[-1], finer.shape[2], finer.shape[3]))
        merged.reverse()
        refined = [layer(map_) for layer, map_ in zip(list(self.refine)[1:], merged[:-1], strict=True)]
        return Pyramid(above=merged[0], refined=(*refined, merged[-1]))

    def rows(self, finest: Tensor, pyramid: Pyramid, *, first: int, last: int) -> Tensor:
        """Logits (B, outputs, last - first, W) of rows [first, last) of the finest map, as those of the whole map."""
        height, width = finest.shape[2:]
        top, bottom = max(first - _REACH, 0), min(last + _REACH, height)
        own = self.laterals[0](self.norms[0](finest[:, :, top:bottom].float()))
        merged = own + resized_rows(pyramid.above, height, width, first=top, last=bottom)
        # A row at a cut that is no edge of the map was convolved with zeros in place of its neighbour.
        inner_top, inner_bottom = max(first - 1, 0), min(last + 1, height)
        fine = self.refine[0](merged)[:, :, inner_top - top : inner_bottom - top]
        parts = [
            resized_rows(map_, height, width, first=inner_top, last=inner_bottom) for map_ in pyramid.refined
        ]
        fused = self.fuse(torch.cat([fine, *parts], dim=1))[:, :, first - inner_top : last - inner_top]
        logits: Tensor = self.classify(self.dropout(fused))
        return logits

    def _context(self, last: Tensor) -> Tensor:
        """The last map with what lies around each token, at several scales."""
        height, width = last.shape[2:]
        tokens = self.settings.crop_tokens
        parts = [last]
        for scale, layer in zip(self.settings.pool_scales, self.pooled, strict=True):
            cells = (max(1, round(height * scale / tokens)), max(1, round(width * scale / tokens)))
            parts.append(resized(layer(F.adaptive_avg_pool2d(last, cells)), height, width))
        found: Tensor = self.context(torch.cat(parts, dim=1))
        return found


class Auxiliary(nn.Module):
    """A small head on the map of stride 16, which only training has: the backbone's shorter way to the loss."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(settings.dims[-2]),
            unit(settings.dims[-2], settings.channels, kernel=3),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(settings.channels, settings.outputs, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, outputs, H, W) at stride 16."""
        logits: Tensor = self.layers(maps[-2])
        return logits


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) to (B, C, height, width), bilinear, pixel centres kept."""
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def resized_rows(x: Tensor, height: int, width: int, *, first: int, last: int) -> Tensor:
    """Rows [first, last) of what `resized` gives, from those rows of ``x`` that they need."""
    if (first, last) == (0, height):
        return resized(x, height, width)
    rows = x.shape[2]
    # As in torch: rows of the target in rows of the source, held at the upper edge.
    places = ((torch.arange(first, last, device=x.device) + 0.5) * (rows / height) - 0.5).clamp(min=0)
    above = places.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    share = (places - above).to(x.dtype)[:, None]
    start, stop = int(above[0]), int(below[-1]) + 1
    wide = resized(x[:, :, start:stop], stop - start, width)
    upper, lower = wide[:, :, above - start], wide[:, :, below - start]
    return upper + (lower - upper) * share
