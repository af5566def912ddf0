"""Max pooling: for each hidden feature, its largest value over the patches."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_vmamba.mil.base import PlainPool, map_patches


class MaxPool(PlainPool):
    """Take the maximum of each hidden feature over the slide."""

    def pool(self, features: Tensor) -> Tensor:
        """Largest value of each hidden feature over the patches of features (N, in_dim): (hidden_dim,)."""
        maxima = map_patches(lambda patches: self.embed(patches).amax(dim=0), features)
        return torch.stack(maxima).amax(dim=0)
