"""Gated attention pooling (Ilse, Tomczak and Welling, 2018): patches are weighted by learned attention."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_vmamba.mil.base import Aggregator, MilOutput
from wsi_vmamba.mil.gated import GatedAttention, attention_pool


class ABMIL(Aggregator):
    """Embed each patch as h; attention a = softmax over patches of w·(tanh(V h) * sigmoid(U h)); sum a h."""

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1.
        """
        pooled = attention_pool(self.embed, self.attention, features)
        return MilOutput(logits=self.classifier(pooled.means[0]), attention=pooled.attention())
