"""The loop: one slide per step, through its pixels; seeded, stopped early, resumable to the bit after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsi_vmamba.end_to_end.model import EndToEndModel, save_backbone
from wsi_vmamba.end_to_end.slides import LearnedFeatures, PlannedPixels
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.metrics.auc import roc_auc
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training.checkpoint import Checkpoint, random_state, restore_random_state
from wsi_vmamba.training.optimise import backbone_groups, parameter_groups, rate_share
from wsi_vmamba.training.run import CHECKPOINT, EpochReport, save_best, write_metrics
from wsi_vmamba.training.settings import TrainSettings
from wsi_vmamba.training.slides import class_weights, label_of

_CPU = torch.device("cpu")


class LearningSlide(NamedTuple):
    """A slide with its label and what of it is read."""

    record: SlideRecord
    pixels: PlannedPixels


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How the model does on the validation slides."""

    loss: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What shapes the training.

    Attributes:
        training: of the aggregator, as a run records them; its learning rate is the aggregator's.
        backbone_rate: learning rate of the backbone as a share of that.
        layer_decay: factor per block downwards.
    """

    training: TrainSettings
    backbone_rate: float
    layer_decay: float


class EndToEndLoop:
    """The state of a training; `run_epoch` trains one more epoch and saves it to disk."""

    def __init__(
        self,
        model: EndToEndModel,
        training: Sequence[LearningSlide],
        validation: Sequence[LearningSlide],
        settings: LoopSettings,
        run_dir: Path,
        *,
        begun_with: Mapping[str, Any],
        on_slide: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is read or written.

        Args:
            model: is trained in place.
            training: slides to learn from.
            validation: slides that decide which epoch is kept.
            settings: how.
            run_dir: gets backbone.safetensors beside the files of a run.
            begun_with: what else a resumed training must have in common with the one that was stopped.
            on_slide: told of each slide when it has been worked on.
        """
        self.model = model
        self.training, self.validation = training, validation
        self.settings = settings
        self.run_dir = run_dir
        self.history: list[EpochReport] = []
        self._begun_with = dict(begun_with)
        self._on_slide = on_slide
        self._weights = class_weights(
            [slide.record for slide in training], balanced=settings.training.class_weights
        )
        self._optimizer = torch.optim.AdamW(self._groups())
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]

    @property
    def best(self) -> EpochReport | None:
        """The epoch whose model is kept."""
        return next((report for report in reversed(self.history) if report.is_best), None)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        numbers, best = self.settings.training, self.best
        since_best = len(self.history) - best.epoch if best else 0
        return len(self.history) >= numbers.epochs or since_best >= numbers.patience

    def run_epoch(self) -> EpochReport:
        """Train on each slide once, validate, and write the best model, metrics and checkpoint, in this order."""
        epoch = len(self.history) + 1
        rate, train_loss = self._train_epoch(epoch)
        judged, best = self.judge(), self.best
        report = EpochReport(
            epoch=epoch,
            learning_rate=rate,
            train_loss=train_loss,
            validation_loss=judged.loss,
            validation_auc=judged.auc,
            is_best=best is None or (judged.auc, -judged.loss) > (best.validation_auc, -best.validation_loss),
        )
        self.history.append(report)
        # The checkpoint is last: after a crash before it, the epoch is done again and writes the same files.
        if report.is_best:
            self._keep(report)
        write_metrics(self.run_dir, self.history)
        self._checkpoint().save(self.run_dir / CHECKPOINT)
        return report

    def judge(self) -> Judged:
        """Mean loss and AUC of the model, as it is now, on the validation slides."""
        self.model.eval()
        losses, scores = [], []
        for slide in self.validation:
            with torch.no_grad(), slide.pixels.open() as opened:
                features = LearnedFeatures(self.model.backbone, opened, slide.pixels.plan).features
                output = self.model.classifier(features, slide.pixels.places)
            losses.append(self._loss(output.logits, slide.record).item())
            scores.append(torch.softmax(output.logits.double(), dim=0)[1].item())
            self._on_slide(slide.record.slide_id)
        labels = np.array([label_of(slide.record) for slide in self.validation])
        return Judged(loss=float(np.mean(losses)), auc=float(roc_auc(labels, np.array(scores))))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            TrainingError: it is of another training.
        """
        checkpoint.check_identity(self._identity(), where=self.run_dir / CHECKPOINT)
        self.model.load_state_dict(checkpoint.model)
        self._optimizer.load_state_dict(dict(checkpoint.optimizer))
        self.history = list(checkpoint.history)
        restore_random_state(checkpoint.rng, _CPU)

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """The last learning rate of the aggregator, and the mean loss."""
        self.model.train()
        numbers = self.settings.training
        order = np.random.default_rng([numbers.seed, epoch]).permutation(len(self.training))
        total, warmup = (
            numbers.epochs * len(order),
            min(numbers.warmup_epochs, numbers.epochs - 1) * len(order),
        )
        losses, rate = [], 0.0
        for place, index in enumerate(order):
            share = rate_share((epoch - 1) * len(order) + place, warmup=warmup, total=total)
            for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = share * peak
            rate = share * numbers.learning_rate
            losses.append(self._step(self.training[index], epoch))
            self._on_slide(self.training[index].record.slide_id)
        return rate, float(np.mean(losses))

    def _step(self, slide: LearningSlide, epoch: int) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        with slide.pixels.open() as opened:
            learned = LearnedFeatures(self.model.backbone, opened, slide.pixels.plan)
            output = self.model.classifier(learned.features, slide.pixels.places)
            loss = self._loss(output.logits, slide.record)
            if output.auxiliary is not None:
                label = label_of(slide.record)
                loss = loss + output.auxiliary(label).float() * self._weights[label]
            value = _finite(loss.item(), "loss", slide, epoch)
            learned.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.training.gradient_clip)
        _finite(norm.item(), "gradient", slide, epoch)
        self._optimizer.step()
        return value

    def _loss(self, logits: Tensor, record: SlideRecord) -> Tensor:
        label = label_of(record)
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(label))
        return loss * self._weights[label]

    def _groups(self) -> list[dict[str, Any]]:
        numbers = self.settings.training
        own = parameter_groups(self.model.classifier, weight_decay=numbers.weight_decay)
        for group in own:
            group["lr"] = numbers.learning_rate
        backbone = backbone_groups(
            self.model.backbone,
            learning_rate=self.settings.backbone_rate * numbers.learning_rate,
            weight_decay=numbers.weight_decay,
            layer_decay=self.settings.layer_decay,
        )
        return [*own, *backbone]

    def _keep(self, report: EpochReport) -> None:
        model = self.model
        save_backbone(self.run_dir, model.backbone, name=model.source.model)
        classifier = model.classifier
        began = classifier.spec
        classifier.spec = replace(began, source=model.source)
        save_best(self.run_dir, classifier, self.settings.training, report)
        classifier.spec = began

    def _identity(self) -> dict[str, Any]:
        slides = [*self.training, *self.validation]
        return {
            "settings": {
                **self.settings.training.to_dict(),
                "backbone_rate": self.settings.backbone_rate,
                "layer_decay": self.settings.layer_decay,
                **self._begun_with,
            },
            "spec": self.model.classifier.spec.to_dict(),
            "training slides": [slide.record.slide_id for slide in self.training],
            "validation slides": [slide.record.slide_id for slide in self.validation],
            "label": {slide.record.slide_id: slide.record.label for slide in slides},
        }

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            identity=self._identity(),
            history=self.history,
            model=self.model.state_dict(),
            average={},
            optimizer=self._optimizer.state_dict(),
            rng=random_state(_CPU),
        )


def _finite(value: float, what: str, slide: LearningSlide, epoch: int) -> float:
    if not np.isfinite(value):
        raise TrainingError(
            f"epoch {epoch}, slide {slide.record.slide_id}: the {what} is {value}; the checkpoint of the epoch before "
            "is kept. Lower the learning rate"
        )
    return value
