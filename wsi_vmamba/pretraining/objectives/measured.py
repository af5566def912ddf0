"""Measuring as an objective of its own: textures, nuclei and directions of a view as it was before it was changed.

What anybody could measure is a teacher without weights; the student has to see it through other stains, focus and JPEG.
See `wsi_vmamba.pretraining.measurements`.
"""

from __future__ import annotations

from typing import Self, cast

from torch import nn

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.measured_task import MeasuredTask
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.ranks import Ranks


class Measured(Objective):
    """See the module; only the first large view of each square is used."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @classmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """See `Objective.of`."""
        return cls(dim=dim)

    def head(self) -> nn.Module:
        """See `Objective.head`."""
        return MeasuredTask(dim=self.dim)

    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """See `Objective.forward`."""
        if batch.measured is None:
            raise UsageError("the objective measured needs views that were measured")
        features = student.features(batch.large[0])
        loss = cast(MeasuredTask, student.head).loss(features, batch.measured, ranks)
        return Outcome(loss=loss, features=features)
