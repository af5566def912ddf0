"""Mean pooling: every cell counts the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, cell_embedding, check_cells, map_cells


class MeanPool(nn.Module):
    """Embed each cell, average over the slide, classify the average. Gives no attention."""

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.embed = cell_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim), coords (N, 2) int64 (col, row) to logits (num_classes,).

        Raises:
            DatasetError: the bag is empty.
        """
        check_cells(features, coords, in_dim=self.in_dim)
        sums = map_cells(lambda cells: self.embed(cells).sum(dim=0), features)
        pooled = torch.stack(sums).sum(dim=0) / len(features)
        return MilOutput(logits=self.classifier(pooled), attention=None)
