"""The measured task: a linear layer reads from the features of a changed view what was measured of it before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.pretraining.measurements import COUNT
from wsi_vmamba.pretraining.ranks import Ranks

#: Share of the past in the running moments of what is measured.
_MEMORY = 0.99
#: Standard deviations beyond which an error counts linearly.
_FAR = 1.0


class MeasuredTask(nn.Module):
    """The layer, and running mean and variance of each number, so that all numbers count alike."""

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.read = nn.Linear(dim, COUNT)
        self.register_buffer("mean", torch.zeros(COUNT))
        self.register_buffer("square", torch.zeros(COUNT))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, features: Tensor, measured: Tensor, ranks: Ranks) -> Tensor:
        """Huber's loss (), mean over numbers in units of their standard deviations.

        Args:
            features: (B, dim), pooled, of the changed views.
            measured: (B, COUNT), of the views as they were.
            ranks: the processes that share a step; the moments are those of all of them.
        """
        self._learn_moments(measured, ranks)
        mean = self.mean / self.seen
        spread = (self.square / self.seen - mean.square()).clamp_min(1e-6).sqrt()
        target = (measured - mean) / spread
        return F.huber_loss(self.read(features), target.clamp(-5, 5), delta=_FAR)

    @torch.no_grad()
    def _learn_moments(self, measured: Tensor, ranks: Ranks) -> None:
        first, second = measured.mean(dim=0), measured.square().mean(dim=0)
        ranks.mean([first, second])
        for kept, new in ((self.mean, first), (self.square, second), (self.seen, torch.ones_like(self.seen))):
            kept.lerp_(new, 1 - _MEMORY)
