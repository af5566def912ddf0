"""Mean pooling: every patch counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_vmamba.mil.base import PlainPool, map_patches


class MeanPool(PlainPool):
    """Average each hidden feature over the slide."""

    def pool(self, features: Tensor) -> Tensor:
        """Average the embeddings of features (N, in_dim): (hidden_dim,)."""
        sums = map_patches(lambda patches: self.embed(patches).sum(dim=0), features)
        return torch.stack(sums).sum(dim=0) / len(features)
