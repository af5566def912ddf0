"""Ours: attention pooling over patches that know where they are, by an SS2D scan over the slide's grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.mil.base import MilOutput, check_patches, map_patches, patch_embedding
from wsi_vmamba.mil.gated import GatedAttention, Pooled, attention_pool
from wsi_vmamba.mil.grid import PatchGrid
from wsi_vmamba.mil.scan_grid import GridContext

#: Share of training steps that see no context. Without them it learns slides by heart before it learns lesions.
_CONTEXT_DROP = 0.5


class GridScanPool(nn.Module):
    """Gated attention pooling of h + g * c, with h the embedding of a patch and c the context of h on the grid.

    The gains g, one per channel, start at zero (LayerScale, Touvron et al., 2021): training starts as that of
    `GatedAbmil`, and context is added where it helps. In training each slide goes without context half of the times
    (stochastic depth, Huang et al., 2016), so that what patches say alone stays learned. The context is computed in
    float32 whatever the autocast.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.embed = patch_embedding(in_dim=in_dim, hidden_dim=hidden_dim, dropout=dropout)
        self.attention = GatedAttention(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.context = GridContext(hidden_dim)
        self.gain = nn.Parameter(torch.zeros(hidden_dim))

    def forward(self, features: Tensor, coords: Tensor) -> MilOutput:
        """Classify one slide: features (N, in_dim) and coords (N, 2) int64 (col, row), in any order.

        Returns:
            Logits (num_classes,) and attention (N,), which sums to 1, in the order of the features.

        Raises:
            DatasetError: the bag is empty, or two patches are at one place.
        """
        check_patches(features, coords, in_dim=self.in_dim)
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
