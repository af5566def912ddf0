"""Ours: attention pooling over cells that know where they are, by an SS2D scan over the slide's grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, cell_embedding, check_cells, map_cells
from wsi_vmamba.mil.gated import GatedAttention, Pooled, attention_pool
from wsi_vmamba.mil.grid import CellGrid
from wsi_vmamba.mil.scan_grid import GridContext

#: Share of training steps that see no context. Without them it learns slides by heart before it learns lesions.
_CONTEXT_DROP = 0.5


class GridScanPool(nn.Module):
    """Gated attention pooling of h + W c, with h the embedding of a cell and c its context on the grid.

    The context is computed at half the width and in float32 whatever the autocast. W starts at zero, so that
    training starts as that of `GatedAbmil` and context is added where it helps. In training each slide goes without
    context half of the times (stochastic depth, Huang et al., 2016), so that what cells say alone stays learned.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        width = max(1, hidden_dim // 2)
        self.embed = cell_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.inward = nn.Linear(hidden_dim, width)
        self.context = GridContext(width)
        self.outward = nn.Linear(width, hidden_dim, bias=False)
        nn.init.zeros_(self.outward.weight)
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row), in any order.

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1, in the order of the features.

        Raises:
            DatasetError: the bag is empty, or two cells are at one place.
        """
        check_cells(features, coords, in_dim=self.in_dim)
        grid = CellGrid.of(coords)
        if self.training and float(torch.rand(())) < _CONTEXT_DROP:
            return self._classify(attention_pool(self.embed, self.attention, features))
        inner = torch.cat(map_cells(lambda cells: self.inward(self.embed(cells)), features))
        with torch.autocast(features.device.type, enabled=False):
            ordered = inner.to(features.dtype)[grid.rows_first]
            context = self.context(ordered, grid)[torch.argsort(grid.rows_first)]
        # Embedding again costs less than keeping every embedding until here, in time and above all in memory.
        pooled = attention_pool(
            lambda cells, around: self.embed(cells) + self.outward(around), self.attention, features, context
        )
        return self._classify(pooled)

    def _classify(self, pooled: Pooled) -> MilOutput:
        return MilOutput(logits=self.classifier(pooled.means[0]), attention=pooled.attention())
