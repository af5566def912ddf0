"""The loop: epochs over the pictures, judged after each by average precision, resumable to the bit after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_vmamba.dense.rounds import Loop
from wsi_vmamba.detection.average_precision import COCO_MOST, COCO_OVERLAPS, PrecisionCounter
from wsi_vmamba.detection.coco import CocoPicture, CocoSet
from wsi_vmamba.detection.examples import Turns, batches, image_of
from wsi_vmamba.detection.model import Detector
from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.training.guard import diagnose
from wsi_vmamba.training.optimise import parameter_groups

#: Largest share of all steps that the learning rate rises over.
_WARMUP_SHARE = 0.1
#: What the learning rate falls to.
_FALL = 0.1
#: Objects below this score do not change an average precision that is worth anything, and there are many.
_LEAST_JUDGED = 0.05


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Settings of a training; see `TrainDetectorConfig`."""

    epochs: int
    batch: int
    learning_rate: float
    falls: tuple[int, ...]
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    drop_path: float
    turns: Turns
    checkpointing: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a detector is worth on known pictures.

    Attributes:
        box_ap50: average precision of boxes at an overlap of 0.5, mean of the classes.
        mask_ap50: the same of masks.
        box_ap: mean of boxes over the overlaps 0.5 to 0.95, as COCO ranks, up to 100 objects of a class in a picture.
        mask_ap: the same of masks.
    """

    box_ap50: float
    mask_ap50: float
    box_ap: float
    mask_ap: float


@dataclass(frozen=True, kw_only=True)
class DetectorEpoch:
    """One epoch of a training."""

    epoch: int
    learning_rate: float
    train_loss: float
    box_ap50: float
    mask_ap50: float
    box_ap: float
    mask_ap: float
    is_best: bool


class DetectorLoop(Loop[DetectorEpoch]):
    """Trains all of a detector in place; `run_epoch` trains one more epoch."""

    def __init__(
        self,
        detector: Detector,
        training: CocoSet,
        validation: CocoSet,
        settings: DetectorSettings,
        *,
        device: str,
    ) -> None:
        """Prepare; nothing is read.

        Args:
            detector: for the classes of ``training``; is trained in place, on ``device``.
            training: pictures to learn from.
            validation: pictures to judge on, after each epoch.
            settings: how.
            device: where to compute.
        """
        super().__init__(DetectorEpoch, epochs=settings.epochs)
        self._detector = detector.to(device)
        self._training, self._validation = training, validation
        self._settings, self._device = settings, device
        set_drop_path(detector.vmamba, settings.drop_path)
        detector.vmamba.grad_checkpointing = settings.checkpointing
        groups = parameter_groups(detector, weight_decay=settings.weight_decay)
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        steps_per_epoch = -(-len(training.pictures) // settings.batch)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, partial(_rate_share, settings=settings, steps_per_epoch=steps_per_epoch)
        )

    def run_epoch(self) -> DetectorEpoch:
        """Train on all pictures once, judge, and say how it went.

        The best is kept: the highest average precision of masks at an overlap of 0.5.

        Raises:
            DatasetError: a picture cannot be read or an outline not be drawn.
            TrainingError: loss or gradient is not finite; the pictures are named.
        """
        epoch = len(self.history) + 1
        rate = float(self._schedule.get_last_lr()[0])
        loss = self._train(epoch)
        judged = judge(self._detector, self._validation, batch=self._settings.batch, device=self._device)
        best = all(judged.mask_ap50 > past.mask_ap50 for past in self.history)
        report = DetectorEpoch(epoch=epoch, learning_rate=rate, train_loss=loss, **vars(judged), is_best=best)
        self.history.append(report)
        return report

    def _train(self, epoch: int) -> float:
        settings, detector = self._settings, self._detector
        detector.train()
        rng = np.random.default_rng([settings.seed, epoch])
        losses = []
        # What the detector draws itself (samples of anchors) follows the seed, and the caller's stream is left alone.
        with torch.random.fork_rng(devices=[self._device] if is_gpu(self._device) else []):
            torch.manual_seed(int(np.random.default_rng([settings.seed, epoch, 1]).integers(2**62)))
            for pictures, images, targets in batches(
                self._training, self._training.pictures, size=settings.batch, turns=settings.turns, rng=rng
            ):
                self._optimizer.zero_grad(set_to_none=True)
                backward = partial(_backward, detector, images, targets, device=self._device)
                loss = backward()
                losses.append(loss)
                norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), settings.gradient_clip)
                if wrong := self._watch.see(loss=loss, gradient=float(norm)):
                    cause = diagnose(detector, backward, advice="lower the learning rate")
                    raise TrainingError(f"epoch {epoch}, {_some(pictures)}: {wrong}. {cause}")
                self._optimizer.step()
                self._schedule.step()
        return float(np.mean(losses))

    def _parts(self) -> dict[str, Any]:
        return {"model": self._detector, "optimizer": self._optimizer, "schedule": self._schedule}


def judge(detector: Detector, data: CocoSet, *, batch: int, device: str) -> Judgement:
    """Average precisions on the pictures of a data set; the detector is left in evaluation mode."""
    detector.eval()
    at_half = [PrecisionCounter((0.5,), of=of) for of in ("boxes", "masks")]
    over_all = [PrecisionCounter(COCO_OVERLAPS, of=of, most=COCO_MOST) for of in ("boxes", "masks")]
    for start in range(0, len(data.pictures), batch):
        pictures = data.pictures[start : start + batch]
        found = detector.find(
            [image_of(picture.pixels()).to(device) for picture in pictures], least_score=_LEAST_JUDGED
        )
        for picture, objects in zip(pictures, found, strict=True):
            known = data.objects(picture)
            for counter in (*at_half, *over_all):
                counter.add(objects, known)
    box_ap50, mask_ap50 = (counter.at(0.5).mean for counter in at_half)
    box_ap, mask_ap = (counter.mean() for counter in over_all)
    return Judgement(box_ap50=box_ap50, mask_ap50=mask_ap50, box_ap=box_ap, mask_ap=mask_ap)


def _rate_share(step: int, *, settings: DetectorSettings, steps_per_epoch: int) -> float:
    """Share of the peak learning rate at a step: linear rise, then a tenth after each fall."""
    warmup = min(settings.warmup_steps, int(_WARMUP_SHARE * settings.epochs * steps_per_epoch))
    if step < warmup:
        return (step + 1) / warmup
    return float(_FALL ** sum(step >= epoch * steps_per_epoch for epoch in settings.falls))


def _backward(
    detector: Detector, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]], *, device: str
) -> float:
    """Leave the gradients of a batch in the detector; return the sum of its losses."""
    losses = detector.losses(
        [image.to(device) for image in images],
        [{name: value.to(device) for name, value in target.items()} for target in targets],
    )
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _some(pictures: Sequence[CocoPicture]) -> str:
    return f"the batch with {', '.join(str(picture.path) for picture in pictures)}"
