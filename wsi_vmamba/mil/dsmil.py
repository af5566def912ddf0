"""DSMIL (Li, Li and Eliceiri, 2021): the most suspicious patch of a class, and all patches like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_vmamba.mil.base import Aggregator, MilOutput, map_patches
from wsi_vmamba.mil.gated import attention_pool


class DSMIL(Aggregator):
    """First stream: the highest patch logit per class. Second: patches pooled by likeness to that critical patch.

    The slide's logits are the mean of the two streams', as the authors predict; the first stream also has a
    loss of its own, as they train it.
    """

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.patch_classifier = nn.Linear(hidden_dim, num_classes)
        self.query = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.Tanh())
        # One filter per class that spans the pooled embeddings of all classes.
        self.classifier = nn.Linear(num_classes * hidden_dim, num_classes)

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row).

        Returns:
            Logits (num_classes,), attention (N,) of the last class (tumour, of two) and (num_classes, N) of each, and
            the loss of the first stream as auxiliary.
        """
        critical = self.embed(features[self._critical_patches(features)])
        highest = self.patch_classifier(critical).diagonal()
        queries = self.query(critical) / critical.shape[1] ** 0.5
        pooled = attention_pool(self.embed, lambda hidden: self.query(hidden) @ queries.T, features)
        logits = 0.5 * (highest + self.classifier(pooled.means.flatten()))
        return MilOutput(
            logits=logits,
            attention=pooled.attention(branch=-1),
            class_attention=pooled.attentions(),
            auxiliary=lambda label: F.cross_entropy(highest, torch.tensor(label, device=highest.device)),
        )

    @torch.no_grad()
    def _critical_patches(self, features: Tensor) -> Tensor:
        """Index of the patch with the highest logit of each class, (num_classes,)."""
        logits = map_patches(lambda patches: self.patch_classifier(self.embed(patches)), features)
        return torch.cat(logits).argmax(dim=0)
