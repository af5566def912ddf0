"""Distillation from a teacher that the user has: a projection of the student's features is to be the teacher's.

Of a large view the student says what the teacher says of the same view; of a small one, what it says of the large
views of the same square on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.config.pretrain import DistilSettings, PretrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.teachers import Teacher, build_teacher


class Distil(Objective):
    """See the module."""

    def __init__(self, settings: DistilSettings, teacher: Teacher, *, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.dim = dim
        # In a tuple, so that its weights are no part of the state of this module and of checkpoints.
        self._teacher = (teacher,)

    @classmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """See `Objective.of`."""
        return cls(config.distil, build_teacher(config.distil, seed=config.seed), dim=dim)

    def identity(self) -> Mapping[str, str]:
        """See `Objective.identity`."""
        return {"teacher": self._teacher[0].identity}

    def head(self) -> nn.Module:
        """See `Objective.head`."""
        hidden = self.settings.hidden
        return nn.Sequential(nn.Linear(self.dim, hidden), nn.GELU(), nn.Linear(hidden, self._teacher[0].dim))

    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """See `Objective.forward`."""
        if not batch.large:
            raise UsageError("distillation needs a large view at least")
        large = torch.cat(batch.large)
        told = self._teacher[0].features(large)
        features = student.features(large)
        losses = self._loss(student.head(features), told)
        if batch.small:
            of_square = torch.stack(torch.chunk(told, len(batch.large))).mean(dim=0)
            said = student.head(student.features(torch.cat(batch.small)))
            losses = torch.cat([losses, self._loss(said, of_square.repeat(len(batch.small), 1))])
        return Outcome(loss=losses.mean(), features=features)

    def _loss(self, said: Tensor, told: Tensor) -> Tensor:
        """Distance of each view, (n,)."""
        if self.settings.distance == "cosine":
            return 1 - F.cosine_similarity(said, told, dim=1)
        return (said - F.layer_norm(told, told.shape[1:])).square().mean(dim=1)
