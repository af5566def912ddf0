"""CLAM with an attention branch per class (Lu et al., 2021): each class looks at patches of its own."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from wsi_vmamba.mil.base import Aggregator, MilOutput
from wsi_vmamba.mil.gated import GatedAttention, attention_pool
from wsi_vmamba.mil.instances import InstanceLoss


class CLAM_MB(Aggregator):  # noqa: N801  (the authors' name)
    """Gated attention per class, a linear score of each class's own mean, and the instance loss."""

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.attention = GatedAttention(hidden_dim, branches=num_classes)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.instances = InstanceLoss(hidden_dim, num_classes)

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,), attention (N,) of the last class (tumour, of two) and (num_classes, N) of each, and
            the instance loss as auxiliary.
        """
        pooled = attention_pool(self.embed, self.attention, features)
        logits = (self.classifier.weight * pooled.means).sum(dim=1) + self.classifier.bias
        return MilOutput(
            logits=logits,
            attention=pooled.attention(branch=-1),
            class_attention=pooled.attentions(),
            auxiliary=partial(self._instance_loss, features, pooled.scores),
        )

    def _instance_loss(self, features: Tensor, scores: Tensor, label: int) -> Tensor:
        loss: Tensor = self.instances(features, scores, self.embed, label=label)
        return loss
