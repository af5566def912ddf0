"""Max pooling: for each hidden feature, the cell that shows it most."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, cell_embedding, check_cells, map_cells


class MaxPool(nn.Module):
    """Embed each cell, take the maximum over the slide per hidden feature, classify. Gives no attention."""

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
        maxima = map_cells(lambda cells: self.embed(cells).amax(dim=0), features)
        return MilOutput(logits=self.classifier(torch.stack(maxima).amax(dim=0)), attention=None)
