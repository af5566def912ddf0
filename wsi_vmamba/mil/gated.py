"""Pooling by attention: how patches are scored, and how a slide of any size is pooled by the scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import map_patches


class GatedAttention(nn.Module):
    """Scores of embedded patches, w · (tanh(V h) * sigmoid(U h)), with weights w of its own for each branch."""

    def __init__(self, hidden_dim: int, *, branches: int = 1) -> None:
        super().__init__()
        attention_dim = max(1, hidden_dim // 2)
        self.attend = nn.Linear(hidden_dim, attention_dim)
        self.gate = nn.Linear(hidden_dim, attention_dim)
        self.score = nn.Linear(attention_dim, branches)

    def forward(self, hidden: Tensor) -> Tensor:
        """Embedded patches (n, hidden_dim) to scores (n, branches)."""
        scores: Tensor = self.score(torch.tanh(self.attend(hidden)) * torch.sigmoid(self.gate(hidden)))
        return scores


class Pooled(NamedTuple):
    """Scores (N, branches) of the patches and, for each branch, their weighted mean (branches, hidden_dim)."""

    scores: Tensor
    means: Tensor

    def attention(self, branch: int = 0) -> Tensor:
        """Softmax of the scores of a branch over the slide, (N,)."""
        return torch.softmax(self.scores[:, branch], dim=0)

    def attentions(self) -> Tensor:
        """Softmax of the scores of each branch over the slide, (branches, N)."""
        return torch.softmax(self.scores, dim=0).T


def attention_pool(
    embed: Callable[..., Tensor], score: Callable[[Tensor], Tensor], *patches: Tensor
) -> Pooled:
    """Pool a slide by the softmax of its patches' scores, piece by piece.

    Args:
        embed: takes the same n patches of each of ``patches`` to (n, hidden_dim).
        score: takes those to (n, branches).
        patches: tensors (N, ...), in the same order of patches.
    """

    def pool(*piece: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = embed(*piece)
        scores = score(hidden)
        return scores, torch.logsumexp(scores, dim=0), torch.softmax(scores, dim=0).T @ hidden

    scores, masses, means = zip(*map_patches(pool, *patches), strict=True)
    # Each piece is pooled with its own softmax; the softmax of the masses is its share of the slide.
    shares = torch.softmax(torch.stack(masses), dim=0)
    return Pooled(scores=torch.cat(scores), means=torch.einsum("pb,pbh->bh", shares, torch.stack(means)))
