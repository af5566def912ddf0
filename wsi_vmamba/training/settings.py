"""How to train: every number that shapes the result, in one frozen record."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from wsi_vmamba.config.fields import Aggregator
from wsi_vmamba.config.train import DEFAULT_AGGREGATOR, TrainingNumbers
from wsi_vmamba.device import Precision
from wsi_vmamba.mil import SUPERVISIONS
from wsi_vmamba.mil.supervision import Supervision
from wsi_vmamba.training.optimise import rate_share


class TrainSettings(TrainingNumbers):
    """Settings of one training: the numbers of the command, whose checks and defaults they have, as resolved.

    Raises:
        ConfigError: a value of the wrong type or range, an unknown name, or an aggregator where none is trained.
    """

    aggregator: Aggregator | None = DEFAULT_AGGREGATOR
    """Name in the AGGREGATORS table; None where slides are not supervised."""
    precision: Precision = "fp32"
    """Of the forward pass; weights, losses and updates are float32 always."""

    @model_validator(mode="after")
    def _aggregator_fits(self) -> TrainSettings:
        if (self.aggregator is not None) != self.supervises.slides:
            raise ValueError(
                f"supervision {self.supervision!r} {'needs' if self.supervises.slides else 'has no'} "
                f"aggregator, got {self.aggregator!r}"
            )
        return self

    @property
    def supervises(self) -> Supervision:
        """What ``supervision`` stands for."""
        found: Supervision = SUPERVISIONS.resolve(self.supervision)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return self.model_dump()

    def rate_at(self, step: int, *, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0: linear rise in the warm-up, then half a cosine to zero."""
        total = self.epochs * steps_per_epoch
        warmup = min(self.warmup_epochs, self.epochs - 1) * steps_per_epoch
        return self.learning_rate * rate_share(step, warmup=warmup, total=total)
