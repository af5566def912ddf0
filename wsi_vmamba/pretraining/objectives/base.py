"""What every objective shares: what it is given in a step, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor, nn

from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.ranks import Ranks

if TYPE_CHECKING:
    from wsi_vmamba.config.pretrain import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a training is: the step, counted from 0, of so many."""

    step: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an objective makes of a step.

    Attributes:
        loss: (), with gradients; their mean over all ranks is the gradient of the loss of the whole batch.
        features: (n, dim), the pooled features of this rank with their gradients, those of the large views first and
            in their order; other tasks read from them, and the monitors say whether they collapse.
        numbers: what else is worth a line of the log, by name; each ().
    """

    loss: Tensor
    features: Tensor
    numbers: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """What a pretraining minimises; its buffers are part of the checkpoint.

    Attributes:
        reads_slides: whether it is given views of slides; else there need be none.
        average_ramps: whether the running average of the weights forgets its start quickly. It must not where it is
            the teacher, which has to lag behind.
    """

    reads_slides: ClassVar[bool] = True
    average_ramps: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """Build it with its settings for features of length ``dim``."""

    def identity(self) -> Mapping[str, str]:
        """What a resumed training must share beside its settings, by name."""
        return {}

    @abstractmethod
    def head(self) -> nn.Module:
        """What stands on the backbone while it trains, and is thrown away after."""

    @abstractmethod
    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """The loss of one step.

        Args:
            student: what learns, backbone and head.
            average: the running average of its weights; without gradients.
            batch: of this rank.
            moment: the step.
            ranks: the processes that share it.
        """

    def before_update(self, student: Learner, moment: Moment) -> None:
        """Change gradients between the backward pass and the clipping, where an objective has to."""

    def collapse(self, numbers: Mapping[str, float]) -> str:
        """Say how its own numbers show that it has collapsed; empty where they do not."""
        return ""
