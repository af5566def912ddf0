"""Self-distillation with views of two sizes (DINO): the student says of any view what the teacher says of a large one.

Caron et al. 2021, arXiv:2104.14294. The teacher is the running average of the student and sees large views only; its
answers are centred and sharpened, so that neither one prototype nor all of them alike is an answer to everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.config.pretrain import DinoSettings, PretrainConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.heads import PrototypeHead
from wsi_vmamba.pretraining.learner import Learner
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.schedule import ramp

#: Fewer prototypes in use than this is a collapse, as is an answer that is this near to all of them alike.
_LEAST_PROTOTYPES, _MOST_EVEN = 2.0, 0.999


class Dino(Objective):
    """See the module."""

    average_ramps = False
    centre: Tensor

    def __init__(self, settings: DinoSettings, *, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.dim = dim
        self.register_buffer("centre", torch.zeros(settings.prototypes))

    @classmethod
    def of(cls, config: PretrainConfig, *, dim: int) -> Self:
        """See `Objective.of`."""
        return cls(config.dino, dim=dim)

    def head(self) -> nn.Module:
        """See `Objective.head`."""
        return PrototypeHead(
            dim=self.dim,
            hidden=self.settings.hidden,
            bottleneck=self.settings.bottleneck,
            n_prototypes=self.settings.prototypes,
        )

    def forward(
        self, student: Learner, average: Learner, batch: Batch, moment: Moment, ranks: Ranks
    ) -> Outcome:
        """See `Objective.forward`."""
        if len(batch.large) + len(batch.small) < 2 or not batch.large:
            raise UsageError("self-distillation needs at least one large view, and two views in all")
        large = torch.cat(batch.large)
        with torch.no_grad():
            told = average.head(average.features(large)).float()
        temperature = self.teacher_temperature(moment.step)
        target = torch.softmax((told - self.centre) / temperature, dim=-1)
        self._move_centre(told, ranks)
        features = student.features(large)
        answers = student.head(features)
        if batch.small:
            answers = torch.cat([answers, student.head(student.features(torch.cat(batch.small)))])
        said = F.log_softmax(answers.float() / self.settings.student_temperature, dim=-1)
        loss = cross_views(target, said, batch=len(batch.large[0]))
        return Outcome(loss=loss, features=features, numbers=_numbers(target))

    def teacher_temperature(self, step: int) -> float:
        """How sharp the teacher answers at a step."""
        return ramp(
            step,
            steps=self.settings.temperature_steps,
            first=self.settings.first_teacher_temperature,
            last=self.settings.teacher_temperature,
        )

    @torch.no_grad()
    def _move_centre(self, told: Tensor, ranks: Ranks) -> None:
        mean = told.mean(dim=0)
        ranks.mean([mean])
        self.centre.lerp_(mean, 1 - self.settings.centre_momentum)

    def before_update(self, student: Learner, moment: Moment) -> None:
        """Hold the prototypes in the first steps, while the teacher knows nothing yet."""
        if moment.step < self.settings.freeze_steps and isinstance(student.head, PrototypeHead):
            student.head.prototypes.grad = None

    def collapse(self, numbers: Mapping[str, float]) -> str:
        """See `Objective.collapse`."""
        if numbers["prototypes_used"] < _LEAST_PROTOTYPES:
            return f"the teacher uses {numbers['prototypes_used']:.2f} prototypes in all"
        if numbers["teacher_entropy"] > _MOST_EVEN * math.log(self.settings.prototypes):
            return "the teacher answers every view with all prototypes alike"
        return ""


def cross_views(target: Tensor, said: Tensor, *, batch: int) -> Tensor:
    """Mean cross-entropy over pairs of a large view, as the teacher sees it, and any other view of the student.

    Args:
        target: (n_large · batch, K), probabilities, view by view.
        said: (n_views · batch, K), log-probabilities, view by view, the large ones first and in the same order.
        batch: squares.

    Returns:
        The loss ().
    """
    targets, answers = (rows.reshape(-1, batch, rows.shape[-1]) for rows in (target, said))
    n_large, n_views = len(targets), len(answers)
    everything = torch.einsum("lbk,vbk->", targets, answers)
    same = torch.einsum("lbk,lbk->", targets, answers[:n_large])
    return (same - everything) / (batch * n_large * (n_views - 1))


@torch.no_grad()
def _numbers(target: Tensor) -> dict[str, Tensor]:
    """How undecided the teacher is of one view, in nats, and how many prototypes it uses in all of the batch."""
    mean = target.mean(dim=0)
    return {
        "teacher_entropy": torch.special.entr(target).sum(dim=-1).mean(),
        "prototypes_used": torch.special.entr(mean).sum().exp(),
    }
