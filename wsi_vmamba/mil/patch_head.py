"""A tumour probability for each patch, from its own features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import map_patches, patch_embedding


class PatchHead(nn.Module):
    """Embed each patch and score it: one logit a patch, positive for tumour."""

    def __init__(self, in_dim: int, *, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.embed = patch_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, in_dim) to logits (N,)."""
        return torch.cat(map_patches(lambda patches: self.score(self.embed(patches)), features)).squeeze(1)
