"""Barlow Twins, without a teacher: two views of a square agree in each number, and no number repeats another.

Zbontar et al. 2021, arXiv:2103.03230. Collapse is excluded by the loss itself: numbers that are all alike correlate.
"""

from __future__ import annotations

from itertools import combinations
from typing import Self

import torch
from torch import Tensor, nn

from wsi_vmamba.config.pretrain import BarlowTwinsSettings, PretrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.heads import Projector
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.ranks import Ranks

#: Added to variances.
_EPSILON = 1e-5


class BarlowTwins(Objective):
    """See the module; pairs are of a large view and any other view."""

    def __init__(self, settings: BarlowTwinsSettings, *, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.dim = dim

    @classmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """See `Objective.of`."""
        return cls(config.barlow_twins, dim=dim)

    def head(self) -> nn.Module:
        """See `Objective.head`."""
        return Projector(dim=self.dim, hidden=self.settings.hidden, out=self.settings.out)

    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """See `Objective.forward`."""
        n_large, n_views = len(batch.large), len(batch.large) + len(batch.small)
        if n_large < 1 or n_views < 2 or len(batch.large[0]) * ranks.world < 2:
            raise UsageError("barlow_twins needs a large view, two views in all, and two squares in a batch")
        large = student.features(torch.cat(batch.large))
        views = list(torch.chunk(large, n_large))
        if batch.small:
            views += torch.chunk(student.features(torch.cat(batch.small)), len(batch.small))
        # Correlations are of the whole batch, so the features of all ranks are brought together; the head is cheap.
        points = [standardised(student.head(ranks.gather(view))) for view in views]
        pairs = [(a, b) for a, b in combinations(range(n_views), 2) if a < n_large]
        parts = [correlation_loss(points[a], points[b], weight=self.settings.off_diagonal) for a, b in pairs]
        on, off = (torch.stack(part).mean() for part in zip(*parts, strict=True))
        return Outcome(
            loss=on + off,
            features=large,
            numbers={"on_diagonal": on.detach(), "off_diagonal": off.detach()},
        )


def standardised(points: Tensor) -> Tensor:
    """Points (n, d) with mean 0 and variance 1 in each number over the batch."""
    centred = points.float() - points.float().mean(dim=0)
    return centred / (centred.square().mean(dim=0) + _EPSILON).sqrt()


def correlation_loss(one: Tensor, other: Tensor, *, weight: float) -> tuple[Tensor, Tensor]:
    """How far the correlations (d, d) of two standardised views (n, d) are from the identity, per number.

    Returns:
        The part of the diagonal, Σ (1 - c_ii)² / d, and ``weight`` times that of the rest, Σ c_ij² / d; each ().
    """
    correlation = one.T @ other / len(one)
    diagonal = torch.diagonal(correlation)
    rest = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().mean(), weight * rest / len(diagonal)
