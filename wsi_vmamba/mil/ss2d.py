"""Ours: attention pooling over patches that know where they are, by an SS2D scan over the slide's grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import Aggregator, MilOutput, map_patches
from wsi_vmamba.mil.gated import GatedAttention, Pooled, attention_pool
from wsi_vmamba.mil.grid import PatchGrid
from wsi_vmamba.mil.scan_grid import GridContext

#: Share of training steps that see no context. Without them it overfits before it learns lesions.
_CONTEXT_DROP = 0.5


class SS2DMIL(Aggregator):
    """Gated attention pooling of h + g * c, with h the embedding of a patch and c the context of h on the grid.

    The gains g, one per channel, start at zero (LayerScale, Touvron et al., 2021): training starts as that of
    `ABMIL`, and context is added where it helps. In training each slide goes without context half of the time
    (stochastic depth, Huang et al., 2016), so that what patches say alone stays learned. The context is computed in
    float32 whatever the autocast.
    """

    def add_layers(self, *, hidden_dim: int, num_classes: int, dropout: float) -> None:
        """See `Aggregator.add_layers`."""
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.context = GridContext(hidden_dim)
        self.gain = nn.Parameter(torch.zeros(hidden_dim))

    def classify(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row), in any order.

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1, in the order of the features.

        Raises:
            DatasetError: two patches are at one place.
        """
        grid = PatchGrid.of(coords)
        if self.training and float(torch.rand(())) < _CONTEXT_DROP:
            return self._classify(attention_pool(self.embed, self.attention, features))
        hidden = torch.cat(map_patches(self.embed, features))
        with torch.autocast(features.device.type, enabled=False):
            ordered = hidden.to(features.dtype)[grid.rows_first]
            context = self.context(ordered, grid)[torch.argsort(grid.rows_first)]
        # Embedding again costs less than keeping every embedding until here, in time and above all in memory.
        pooled = attention_pool(
            lambda patches, around: self.embed(patches) + self.gain * around,
            self.attention,
            features,
            context,
        )
        return self._classify(pooled)

    def _classify(self, pooled: Pooled) -> MilOutput:
        return MilOutput(logits=self.classifier(pooled.means[0]), attention=pooled.attention())
