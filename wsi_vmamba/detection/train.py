"""Train a detector, and judge it by average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wsi_vmamba.detection.average_precision import COCO_MOST, COCO_OVERLAPS, PrecisionCounter
from wsi_vmamba.detection.coco import CocoPicture, CocoSet
from wsi_vmamba.detection.examples import Turns, batches, image_of
from wsi_vmamba.detection.model import Detector
from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.training.guard import Watch, diagnose
from wsi_vmamba.training.optimise import parameter_groups

#: Largest share of all steps that the learning rate rises over.
_WARMUP_SHARE = 0.1
#: What the learning rate falls to.
_FALL = 0.1
#: Objects below this score do not change an average precision that is worth anything, and there are many.
_LEAST_JUDGED = 0.05


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Settings of a training; see `DetectorConfig`."""

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


def train(
    detector: Detector,
    training: CocoSet,
    validation: CocoSet,
    settings: DetectorSettings,
    *,
    device: str,
    on_epoch: Callable[[DetectorEpoch, Detector], None],
) -> list[DetectorEpoch]:
    """Train all of a detector in place.

    Args:
        detector: for the classes of ``training``.
        training: pictures to learn from.
        validation: pictures to judge on, after each epoch.
        settings: how.
        device: where to compute.
        on_epoch: called after each epoch with the detector, which is to be kept where ``is_best``: the highest average
            precision of masks at an overlap of 0.5.

    Raises:
        DatasetError: a picture cannot be read or an outline not be drawn.
        TrainingError: loss or gradient is not finite; the pictures are named.
    """
    detector.to(device)
    set_drop_path(detector.vmamba, settings.drop_path)
    detector.vmamba.grad_checkpointing = settings.checkpointing
    trained = parameter_groups(detector, weight_decay=settings.weight_decay)
    for group in trained:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
    steps_per_epoch = -(-len(training.pictures) // settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(_rate_share, settings=settings, steps_per_epoch=steps_per_epoch)
    )
    history: list[DetectorEpoch] = []
    watch = Watch()
    for epoch in range(1, settings.epochs + 1):
        rate = float(schedule.get_last_lr()[0])
        loss = _train_epoch(detector, training, settings, epoch, optimizer, schedule, watch, device=device)
        judged = judge(detector, validation, batch=settings.batch, device=device)
        best = all(judged.mask_ap50 > past.mask_ap50 for past in history)
        report = DetectorEpoch(epoch=epoch, learning_rate=rate, train_loss=loss, **vars(judged), is_best=best)
        history.append(report)
        on_epoch(report, detector)
    return history


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


def _train_epoch(
    detector: Detector,
    training: CocoSet,
    settings: DetectorSettings,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    watch: Watch,
    *,
    device: str,
) -> float:
    detector.train()
    rng = np.random.default_rng([settings.seed, epoch])
    losses = []
    # What the detector draws itself (samples of anchors) follows the seed, and the caller's stream is left alone.
    with torch.random.fork_rng(devices=[device] if is_gpu(device) else []):
        torch.manual_seed(int(np.random.default_rng([settings.seed, epoch, 1]).integers(2**62)))
        for pictures, images, targets in batches(
            training, training.pictures, size=settings.batch, turns=settings.turns, rng=rng
        ):
            optimizer.zero_grad(set_to_none=True)
            backward = partial(_backward, detector, images, targets, device=device)
            loss = backward()
            losses.append(loss)
            norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), settings.gradient_clip)
            if wrong := watch.see(loss=loss, gradient=float(norm)):
                cause = diagnose(detector, backward, advice="lower the learning rate")
                raise TrainingError(f"epoch {epoch}, {_some(pictures)}: {wrong}. {cause}")
            optimizer.step()
            schedule.step()
    return float(np.mean(losses))


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
