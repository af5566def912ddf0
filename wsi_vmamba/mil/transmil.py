"""TransMIL (Shao et al., 2021): two layers of linear self-attention with a convolution over the grid between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.errors import UsageError
from wsi_vmamba.mil.base import CHUNK_PATCHES, Aggregator, MilOutput, map_patches
from wsi_vmamba.mil.grid import PatchGrid, grid_convolve
from wsi_vmamba.mil.nystrom import NystromAttention

HEADS = 8
#: Half widths of the kernels of the position encoding: 7 x 7, 5 x 5 and 3 x 3.
_RADII = (3, 2, 1)


class TransMIL(Aggregator):
    """Class token, attention, position encoding, attention, class token's own logits. Gives no attention.

    Differs from the authors' code in what a place is: theirs folds the list of patches into a square, whatever
    their coordinates; here the convolutions run over the slide's own grid and patches are listed row by row. The
    weights of Nyström attention can be negative, so none are returned.
    """

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        if hidden_dim % HEADS:
            raise UsageError(f"transmil has {HEADS} heads: hidden_dim must be a multiple, got {hidden_dim}")
        self.class_token = nn.Parameter(torch.randn(1, hidden_dim))
        self.before, self.after = (_AttentionLayer(hidden_dim, dropout=dropout) for _ in range(2))
        self.position = GridPosition(hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim), coords (N, 2) int64 (col, row) to logits (num_classes,).

        Raises:
            DatasetError: two patches are at one place.
        """
        grid = PatchGrid.of(coords)
        patches = torch.cat(map_patches(self.embed, features[grid.rows_first]))
        tokens = _bounded(self.before, torch.cat([self.class_token.to(patches.dtype), patches]))
        with torch.autocast(features.device.type, enabled=False):
            placed = self.position(tokens[1:].to(features.dtype), grid.neighbours(max(_RADII)))
        tokens = _bounded(self.after, torch.cat([tokens[:1].to(placed.dtype), placed]))
        return MilOutput(logits=self.classifier(self.norm(tokens[0])), attention=None)


class GridPosition(nn.Module):
    """A patch plus depthwise 7 x 7, 5 x 5 and 3 x 3 convolutions of its surroundings, as one convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kernels = nn.ParameterList()
        for radius in _RADII:  # the widest first
            side = 2 * radius + 1
            self.kernels.append(nn.Parameter(torch.empty(side, side, dim).uniform_(-1 / side, 1 / side)))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, neighbours: Tensor) -> Tensor:
        """Patches (N, dim), row by row, and their neighbours (49, N) to (N, dim)."""
        widest = max(_RADII)
        whole = torch.zeros_like(self.kernels[0])
        for kernel, radius in zip(self.kernels, _RADII, strict=True):
            whole = whole + nn.functional.pad(kernel, (0, 0, *((widest - radius,) * 4)))
        return patches + grid_convolve(patches, whole.flatten(0, 1), neighbours) + self.bias


class _AttentionLayer(nn.Module):
    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = NystromAttention(dim, heads=HEADS, landmarks=dim // 2, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = tokens + self.attention(self.norm(tokens))
        return out


def _bounded(layer: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Apply a layer; on large slides its inner results are computed again in the backward pass."""
    if len(tokens) <= CHUNK_PATCHES or not torch.is_grad_enabled():
        return layer(tokens)
    out: Tensor = checkpoint(layer, tokens, use_reentrant=False)
    return out
