"""The measured task: a linear layer reads from the features of a changed view what was measured of it before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.pretraining.measurements import COUNT
from wsi_vmamba.pretraining.ranks import Ranks

#: Share of the past in the running moments of what is measured.
_MEMORY = 0.99
#: Standard deviations beyond which an error counts linearly, and beyond which numbers are taken for no farther.
_FAR, _FARTHEST = 1.0, 5.0
#: Added to variances.
_EPSILON = 1e-6


class MeasuredTask(nn.Module):
    """The layer, and running mean and variance of each number, so that all numbers count alike."""

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.read = nn.Linear(dim, COUNT)
        self.register_buffer("mean", torch.zeros(COUNT))
        self.register_buffer("variance", torch.zeros(COUNT))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, features: Tensor, measured: Tensor, ranks: Ranks) -> Tensor:
        """Huber's loss (), mean over numbers in units of their standard deviations.

        Args:
            features: (B, dim), pooled, of the changed views.
            measured: (B, COUNT), of the views as they were.
            ranks: the processes that share a step; the moments are those of all of them.
        """
        target = self._standardised(measured, ranks).clamp(-_FARTHEST, _FARTHEST)
        return F.huber_loss(self.read(features), target, delta=_FAR)

    @torch.no_grad()
    def _standardised(self, measured: Tensor, ranks: Ranks) -> Tensor:
        """What is measured by the moments so far, with those of this step."""
        self.seen.lerp_(torch.ones_like(self.seen), 1 - _MEMORY)
        self._learn(self.mean, measured, ranks)
        centred = measured - self.mean / self.seen
        self._learn(self.variance, centred.square(), ranks)
        return centred / (self.variance / self.seen + _EPSILON).sqrt()

    def _learn(self, kept: Tensor, values: Tensor, ranks: Ranks) -> None:
        new = values.mean(dim=0)
        ranks.mean([new])
        kept.lerp_(new, 1 - _MEMORY)
