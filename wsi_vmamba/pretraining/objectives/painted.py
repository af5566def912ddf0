"""The painted task as an objective of its own: naming the tissue of squares of generated tiles. It reads no slides."""

from __future__ import annotations

from typing import Self

from torch import nn

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.painted_task import painted_loss
from wsi_vmamba.pretraining.ranks import Ranks


class PaintedTissue(Objective):
    """See the module; the head is the backbone's own classifier, applied to every square."""

    reads_slides = False

    @classmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """See `Objective.of`."""
        return cls()

    def head(self) -> nn.Module:
        """See `Objective.head`."""
        return nn.Identity()

    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """See `Objective.forward`."""
        if batch.painted is None:
            raise UsageError("the painted task needs generated tiles in every step")
        loss, features = painted_loss(student, batch.painted)
        return Outcome(loss=loss, features=features)
