"""Gated attention pooling (Ilse, Tomczak and Welling, 2018): cells weigh in by a learned attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, cell_embedding, check_cells, map_cells


class GatedAbmil(nn.Module):
    """Embed each cell as h; attention a = softmax over cells of w·(tanh(V h) * sigmoid(U h)); sum a h."""

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        attention_dim = max(1, hidden_dim // 2)
        self.embed = cell_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.attend = nn.Linear(hidden_dim, attention_dim)
        self.gate = nn.Linear(hidden_dim, attention_dim)
        self.score = nn.Linear(attention_dim, 1)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1.

        Raises:
            DatasetError: the bag is empty.
        """
        check_cells(features, coords, in_dim=self.in_dim)
        scores, masses, means = zip(*map_cells(self._pool, features), strict=True)
        # Each piece is pooled with its own softmax; the softmax of the masses is its share of the slide.
        pooled = torch.softmax(torch.stack(masses), dim=0) @ torch.stack(means)
        return MilOutput(logits=self.classifier(pooled), attention=torch.softmax(torch.cat(scores), dim=0))

    def _pool(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool one piece of n cells: scores (n,), their log-sum-exp (), weighted mean (hidden_dim,)."""
        hidden = self.embed(cells)
        gated = torch.tanh(self.attend(hidden)) * torch.sigmoid(self.gate(hidden))
        scores = self.score(gated).squeeze(1)
        return scores, torch.logsumexp(scores, dim=0), torch.softmax(scores, dim=0) @ hidden
