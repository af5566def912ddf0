"""The loop of a pretraining: steps that are a function of settings and number, so that it can go on to the bit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.checkpoint import Checkpoint
from wsi_vmamba.pretraining.learner import Learner, average_of, move_towards
from wsi_vmamba.pretraining.monitors import describe_collapse, effective_rank, feature_std
from wsi_vmamba.pretraining.objectives.base import Moment, Objective, Outcome
from wsi_vmamba.pretraining.painted_task import painted_loss
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.schedule import learning_rate, momentum
from wsi_vmamba.training.guard import Watch, diagnose
from wsi_vmamba.training.optimise import parameter_groups

#: Lines of the log, one after the other, that must show a collapse before it is taken for one.
COLLAPSED_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Report:
    """A line of the log.

    Attributes:
        step: steps that are done.
        numbers: loss and those of the tasks beside it (means since the line before), learning rate, gradient, monitors.
        images_per_s: views that all ranks encoded in a second, since the line before.
        warning: what is wrong, in words; empty where nothing is.
        stop: whether that is so wrong that the training should not go on.
    """

    step: int
    numbers: Mapping[str, float]
    images_per_s: float
    warning: str = ""
    stop: bool = False


class Loop:
    """The state of a pretraining; `run` makes steps."""

    def __init__(
        self, student: Learner, objective: Objective, config: PretrainConfig, *, ranks: Ranks, device: str
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.device = torch.device(device)
        self.student = student.to(device)
        self.objective = objective.to(device)
        ranks.same_start([self.student, self.objective])
        self.average = average_of(self.student)
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student, weight_decay=config.weight_decay),
            lr=config.learning_rate, betas=(0.9, config.beta2), fused=True,
        )  # fmt: skip
        self._weights = {"measured": config.measured_weight, "painted": config.painted_weight}
        self.step = 0
        self._losses: list[float] = []
        self._others: dict[str, list[float]] = {}
        self._collapsed_lines = 0
        self._watch = Watch()
        self._images, self._since = 0, time.perf_counter()
        self._last: tuple[Outcome, float]

    def run(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[int]:
        """Make the steps of these batches, which go on where this is; yields how many are done, after each.

        Raises:
            TrainingError: loss or gradient is not finite.
        """
        self._images, self._since = 0, time.perf_counter()
        for step, batch in batches:
            self._last = self._make_step(Moment(step=step, total=self.config.steps), batch)
            self.step = step + 1
            yield self.step

    def _make_step(self, moment: Moment, batch: Batch) -> tuple[Outcome, float]:
        config = self.config
        rate = learning_rate(
            moment.step, peak=config.learning_rate, warmup=config.warmup_steps, total=config.steps,
            final_share=config.final_share,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        batch = batch.to(self.device)
        outcome, others = self._backward(moment, batch)
        self.objective.before_update(self.student, moment)
        loss = outcome.loss.clone()
        self.ranks.mean([*(p.grad for p in self.parameters if p.grad is not None), loss, *others.values()])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        # Loss and gradient are those of all ranks by now, so that all of them see the same.
        total = float(loss) + sum(self._weights[name] * float(other) for name, other in others.items())
        if wrong := self._watch.see(loss=total, gradient=float(norm)):
            found = diagnose(self.student, partial(self._backward, moment, batch), advice=self._advice())
            raise TrainingError(f"step {moment.step}: {wrong}. {found}")
        self.optimizer.step()
        share = momentum(
            moment.step, first=config.ema, total=config.steps, ramps=self.objective.average_ramps
        )
        move_towards(self.average, self.student, momentum=share)
        self._losses.append(float(loss))
        for name, other in others.items():
            self._others.setdefault(name, []).append(float(other))
        self._images += batch.n_images * self.ranks.world
        return outcome, float(norm)

    def _backward(self, moment: Moment, batch: Batch) -> tuple[Outcome, dict[str, Tensor]]:
        """Gradients of a step, added to those that are there; gives also the losses of tasks beside the objective."""
        outcome: Outcome = self.objective(self.student, self.average, batch, moment, self.ranks)
        others: dict[str, Tensor] = {}
        loss = outcome.loss
        if self.student.measured is not None and batch.measured is not None:
            first_views = outcome.features[: len(batch.measured)]
            others["measured"] = self.student.measured.loss(first_views, batch.measured, self.ranks)
            loss = loss + self._weights["measured"] * others["measured"]
        loss.backward()  # type: ignore[no-untyped-call]
        if self._weights["painted"] and batch.painted is not None:
            others["painted"], _ = painted_loss(self.student, batch.painted)
            (self._weights["painted"] * others["painted"]).backward()  # type: ignore[no-untyped-call]
        seen = replace(outcome, loss=outcome.loss.detach(), features=outcome.features.detach())
        return seen, {name: other.detach().clone() for name, other in others.items()}

    def _advice(self) -> str:
        rate = self.optimizer.param_groups[0]["lr"]
        return (
            f"try a lower learning_rate (it is {rate:.2g} in this step), more warmup_steps, a smaller gradient_clip "
            "or precision fp32; the last checkpoint is kept"
        )

    def report(self) -> Report:
        """Say how it goes, from the last step and those since the report before; all ranks say the same."""
        outcome, norm = self._last
        monitors = {
            "feature_std": feature_std(outcome.features),
            "effective_rank": effective_rank(outcome.features),
            **{name: float(value) for name, value in outcome.numbers.items()},
        }
        shared = torch.tensor([*monitors.values()], dtype=torch.float32, device=self.device)
        self.ranks.mean([shared])
        monitors = dict(zip(monitors, shared.tolist(), strict=True))
        numbers = {
            "loss": fmean(self._losses),
            **{f"{name}_loss": fmean(values) for name, values in self._others.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            **monitors,
        }
        now = time.perf_counter()
        pace = self._images / (now - self._since)
        self._losses, self._others, self._images, self._since = [], {}, 0, now
        warning = self._judge(monitors)
        return Report(
            step=self.step, numbers=numbers, images_per_s=pace, warning=warning,
            stop=self.config.on_collapse == "stop" and self._collapsed_lines >= COLLAPSED_LINES,
        )  # fmt: skip

    def _judge(self, monitors: Mapping[str, float]) -> str:
        """What is wrong with the features, once they have had the warm-up to begin to differ."""
        if self.step <= self.config.warmup_steps:
            return ""
        found = describe_collapse(monitors) or self.objective.collapse(monitors)
        self._collapsed_lines = self._collapsed_lines + 1 if found else 0
        return found

    def checkpoint(self, identity: Mapping[str, Any]) -> Checkpoint:
        """The state after the last step."""
        return Checkpoint(
            identity=identity,
            step=self.step,
            student=self.student.state_dict(),
            average=self.average.state_dict(),
            objective=self.objective.state_dict(),
            optimizer=self.optimizer.state_dict(),
            memory={
                "losses": self._losses,
                "others": self._others,
                "collapsed_lines": self._collapsed_lines,
                "watch": asdict(self._watch),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint."""
        self.student.load_state_dict(checkpoint.student)
        self.average.load_state_dict(checkpoint.average)
        self.objective.load_state_dict(checkpoint.objective)
        self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.step = checkpoint.step
        self._losses = list(checkpoint.memory["losses"])
        self._others = {name: list(values) for name, values in checkpoint.memory["others"].items()}
        self._collapsed_lines = checkpoint.memory["collapsed_lines"]
        self._watch = Watch(**checkpoint.memory.get("watch", {}))  # the first checkpoints had none
