"""How to train: every number that shapes the result, in one frozen record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from wsi_vmamba.config import TrainConfig
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.mil import AGGREGATORS, SUPERVISIONS
from wsi_vmamba.mil.supervision import Supervision
from wsi_vmamba.training.optimise import rate_share

#: Number formats of the forward pass; weights, losses and updates are float32 always.
PRECISIONS = ("fp32", "bf16")


def _default(name: str) -> Any:
    """The default of the command, which is the only one there is."""
    return TrainConfig.model_fields[name].default


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of one training; defaults are those of `TrainConfig`.

    Attributes:
        aggregator: name in the AGGREGATORS table; None where slides are not supervised.
        supervision: name in the SUPERVISIONS table: what is learned from.
        epochs: most passes over the training slides.
        patience: epochs without a better validation AUC (or, at equal AUC, loss) after which to stop.
        learning_rate: peak of the schedule.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear rise before the cosine fall; at least one epoch is left to the fall.
        hidden_dim: width of the patch embedding.
        dropout: share of the embedding dropped in training.
        gradient_clip: largest norm of the gradient.
        ema_decay: share of the past in the running average of the weights that is validated and kept; it grows
            to this from 0.1 at the start. 0 keeps the weights themselves.
        precision: "fp32", or "bf16" for an autocast of the forward pass.
        class_weights: weigh slides so that each label counts the same.
        validation_fraction: share of patients set apart where the records have no validation split.
        seed: of the split, the weights, the order and the dropout.
    """

    aggregator: str | None = "abmil"
    supervision: str = "slide"
    epochs: int = _default("epochs")
    patience: int = _default("patience")
    learning_rate: float = _default("learning_rate")
    weight_decay: float = _default("weight_decay")
    warmup_epochs: int = _default("warmup_epochs")
    hidden_dim: int = _default("hidden_dim")
    dropout: float = _default("dropout")
    gradient_clip: float = _default("gradient_clip")
    ema_decay: float = _default("ema_decay")
    precision: str = "fp32"
    class_weights: bool = _default("class_weights")
    validation_fraction: float = _default("validation_fraction")
    seed: int = _default("seed")

    def __post_init__(self) -> None:
        self._check_names()
        for name, least in (
            ("epochs", 1),
            ("patience", 1),
            ("warmup_epochs", 0),
            ("hidden_dim", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name} must be a whole number, at least {least}; got {value!r}")
        for name in ("learning_rate", "gradient_clip"):
            self._check_range(name, above=0.0, below=math.inf)
        self._check_range("validation_fraction", above=0.0, below=1.0)
        for name, below in (("weight_decay", math.inf), ("dropout", 1.0), ("ema_decay", 1.0)):
            if getattr(self, name) != 0:
                self._check_range(name, above=0.0, below=below)

    def _check_names(self) -> None:
        if self.aggregator is not None:
            AGGREGATORS.check(self.aggregator)
        if (self.aggregator is not None) != self.supervises.slides:
            raise UsageError(
                f"supervision {self.supervision!r} {'needs' if self.supervises.slides else 'has no'} "
                f"aggregator, got {self.aggregator!r}"
            )
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)

    @property
    def supervises(self) -> Supervision:
        """What ``supervision`` stands for."""
        found: Supervision = SUPERVISIONS.resolve(self.supervision)
        return found

    def _check_range(self, name: str, *, above: float, below: float) -> None:
        value = getattr(self, name)
        if not (isinstance(value, float | int) and above < value < below):
            raise UsageError(f"{name} must lie between {above:g} and {below:g}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)

    def rate_at(self, step: int, *, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0: linear rise in the warm-up, then half a cosine to zero."""
        total = self.epochs * steps_per_epoch
        warmup = min(self.warmup_epochs, self.epochs - 1) * steps_per_epoch
        return self.learning_rate * rate_share(step, warmup=warmup, total=total)
