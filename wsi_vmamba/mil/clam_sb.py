"""CLAM with a single attention branch (Lu et al., 2021): ABMIL that also learns to tell patches apart."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from wsi_vmamba.mil.base import Aggregator, MilOutput
from wsi_vmamba.mil.gated import GatedAttention, attention_pool
from wsi_vmamba.mil.instances import InstanceLoss


class CLAM_SB(Aggregator):  # noqa: N801  (the authors' name)
    """Gated attention pooling; in training, the patches of highest and lowest attention are classified too."""

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.instances = InstanceLoss(hidden_dim, num_classes)

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,), attention (N,), and the instance loss as auxiliary.
        """
        pooled = attention_pool(self.embed, self.attention, features)
        return MilOutput(
            logits=self.classifier(pooled.means[0]),
            attention=pooled.attention(),
            auxiliary=partial(self._instance_loss, features, pooled.scores),
        )

    def _instance_loss(self, features: Tensor, scores: Tensor, label: int) -> Tensor:
        loss: Tensor = self.instances(features, scores, self.embed, label=label)
        return loss
