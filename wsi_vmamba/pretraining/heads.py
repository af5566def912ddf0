"""Heads that objectives put on a backbone; they are thrown away when the training is over."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeHead(nn.Module):
    """MLP to a unit vector, and its cosines to prototypes: (B, dim) -> (B, n_prototypes)."""

    def __init__(self, *, dim: int, hidden: int, bottleneck: int, n_prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        #: Directions of the prototypes; only these count, not how long the rows are.
        self.prototypes = nn.Parameter(
            nn.init.trunc_normal_(nn.Linear(bottleneck, n_prototypes).weight, std=0.02)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines in [-1, 1]."""
        points = F.normalize(self.mlp(features).float(), dim=-1)
        return points @ F.normalize(self.prototypes, dim=-1).T


class Projector(nn.Module):
    """MLP with batch normalisation: (B, dim) -> (B, out). It normalises by the batch it is given, always."""

    def __init__(self, *, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, hidden, bias=False)
        self.first_norm = nn.BatchNorm1d(hidden, track_running_stats=False)
        self.second = nn.Linear(hidden, hidden, bias=False)
        self.second_norm = nn.BatchNorm1d(hidden, track_running_stats=False)
        self.last = nn.Linear(hidden, out, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Project features of at least two squares."""
        hidden = F.relu(self.first_norm(self.first(features)))
        out: Tensor = self.last(F.relu(self.second_norm(self.second(hidden))))
        return out
