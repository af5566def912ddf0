"""Gated attention pooling (Ilse, Tomczak and Welling, 2018): patches weigh in by a learned attention."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, check_patches, patch_embedding
from wsi_vmamba.mil.gated import GatedAttention, attention_pool


class GatedAbmil(nn.Module):
    """Embed each patch as h; attention a = softmax over patches of w·(tanh(V h) * sigmoid(U h)); sum a h."""

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.embed = patch_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1.

        Raises:
            DatasetError: the bag is empty.
        """
        check_patches(features, coords, in_dim=self.in_dim)
        pooled = attention_pool(self.embed, self.attention, features)
        return MilOutput(logits=self.classifier(pooled.means[0]), attention=pooled.attention())
