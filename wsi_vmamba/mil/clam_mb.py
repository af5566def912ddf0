"""CLAM with an attention branch per class (Lu et al., 2021): each class looks at patches of its own."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, check_patches, patch_embedding
from wsi_vmamba.mil.gated import GatedAttention, attention_pool
from wsi_vmamba.mil.instances import InstanceLoss


class ClamMultiBranch(nn.Module):
    """Gated attention per class, a linear score of each class's own mean, and the instance loss."""

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.embed = patch_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.attention = GatedAttention(hidden_dim, branches=num_classes)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.instances = InstanceLoss(hidden_dim, num_classes)

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,), attention (N,) of the last class (tumour, of two), and the instance loss as
            auxiliary.

        Raises:
            DatasetError: the bag is empty.
        """
        check_patches(features, coords, in_dim=self.in_dim)
        pooled = attention_pool(self.embed, self.attention, features)
        logits = (self.classifier.weight * pooled.means).sum(dim=1) + self.classifier.bias
        return MilOutput(
            logits=logits,
            attention=pooled.attention(branch=-1),
            auxiliary=partial(self._instance_loss, features, pooled.scores),
        )

    def _instance_loss(self, features: Tensor, scores: Tensor, label: int) -> Tensor:
        loss: Tensor = self.instances(features, scores[:, label], self.embed, label=label)
        return loss
