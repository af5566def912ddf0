"""A tumour probability for each cell, from its own features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import cell_embedding, map_cells


class CellHead(nn.Module):
    """Embed each cell and score it: one logit a cell, positive for tumour."""

    def __init__(self, in_dim: int, *, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.embed = cell_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, in_dim) to logits (N,)."""
        return torch.cat(map_cells(lambda cells: self.score(self.embed(cells)), features)).squeeze(1)
