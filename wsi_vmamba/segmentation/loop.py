"""The loop: rounds of squares, judged after each, seeded, and resumable to the bit after every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_vmamba.dense.rounds import Loop
from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.segmentation.head import Auxiliary, resized
from wsi_vmamba.segmentation.losses import confusion, dice_and_iou, segmentation_loss, targets_of
from wsi_vmamba.segmentation.maps import MapSource, images_of, map_source
from wsi_vmamba.segmentation.model import Segmenter
from wsi_vmamba.segmentation.squares import AUGMENTS, Augment, Square, Squares
from wsi_vmamba.training.guard import diagnose
from wsi_vmamba.training.optimise import backbone_groups, parameter_groups, rate_share

#: Threads that read squares.
_READERS = 2
_ADVICE = "lower the learning rate"


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What shapes a training; the meaning of each is that of the setting of `train-segmenter` of its name."""

    epochs: int
    crops: int
    batch: int
    validation_crops: int
    learning_rate: float
    backbone_rate: float
    layer_decay: float
    drop_path: float
    warmup_epochs: int
    weight_decay: float
    gradient_clip: float
    dice_weight: float
    auxiliary_weight: float
    dropout: float
    augment: Augment
    train_backbone: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class SegmentationEpoch:
    """One round.

    Attributes:
        epoch: its number, from 1.
        learning_rate: of the head as it began.
        train_loss: mean over its squares.
        validation_loss: mean over the squares that are judged.
        mean_dice: of the classes, background left out, over all pixels that are judged.
        mean_iou: likewise.
        is_best: whether its model is kept: the highest mean Dice, at equal ones the lowest loss.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    mean_dice: float
    mean_iou: float
    is_best: bool


class SegmentationLoop(Loop[SegmentationEpoch]):
    """Trains a segmenter in place; `run_epoch` trains one more round."""

    def __init__(
        self,
        model: Segmenter,
        training: Squares,
        validation: Squares,
        settings: LoopSettings,
        *,
        device: str,
    ) -> None:
        """Prepare; nothing is read.

        Args:
            model: is trained in place, on ``device``.
            training: squares to learn from.
            validation: those that decide which round is kept.
            settings: how.
            device: where to compute.
        """
        super().__init__(SegmentationEpoch, epochs=settings.epochs)
        self._model = model.to(device)
        self._training, self._validation = training, validation
        self._settings = settings
        self._device = device
        self._auxiliary = self._new_auxiliary()
        model.backbone.requires_grad_(settings.train_backbone)
        set_drop_path(model.backbone, settings.drop_path)
        self._frozen: MapSource | None = None
        if not settings.train_backbone:
            model.backbone.eval()
            self._frozen = map_source(model.backbone, device=device)
        self._optimizer = torch.optim.AdamW(self._groups())
        steps = -(-settings.crops // settings.batch)
        warmup = min(settings.warmup_epochs, settings.epochs - 1) * steps
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: rate_share(step, warmup=warmup, total=settings.epochs * steps)
        )

    def run_epoch(self) -> SegmentationEpoch:
        """Train on a round of squares, judge, and say how it went.

        Raises:
            TrainingError: loss or gradient is not finite or explodes; the squares of the batch are named.
        """
        epoch = len(self.history) + 1
        rate = float(self._schedule.get_last_lr()[0])
        train_loss = self._train(epoch)
        loss, counts = self.judge()
        dice, iou = (_mean(values[1:]) for values in dice_and_iou(counts))
        best = all((dice, -loss) > (past.mean_dice, -past.validation_loss) for past in self.history)
        report = SegmentationEpoch(
            epoch=epoch, learning_rate=rate, train_loss=train_loss, validation_loss=loss, mean_dice=dice,
            mean_iou=iou, is_best=best,
        )  # fmt: skip
        self.history.append(report)
        return report

    @torch.no_grad()
    def judge(self) -> tuple[float, np.ndarray[Any, np.dtype[np.int64]]]:
        """Mean loss, and the confusion matrix of all pixels, of the squares that the model is judged on."""
        self._model.eval()
        table = self._model.spec.table
        n_classes = len(table.names)
        counts = np.zeros((n_classes + 1, n_classes + 1), np.int64)
        losses: list[float] = []
        count = self._validation.judged(self._settings.validation_crops)
        for (square,) in self._read(count, 1, self._validation.judge):
            logits = self._logits([square])
            targets = targets_of(square.labels, first=table.first)[None].to(self._device)
            losses.append(float(segmentation_loss(logits, targets, dice_weight=self._settings.dice_weight)))
            found = (logits[0].argmax(dim=0) + table.first).to(torch.uint8).cpu().numpy()
            counts += confusion(square.labels, found, classes=n_classes)
        return float(np.mean(losses)), counts

    def _train(self, epoch: int) -> float:
        settings = self._settings
        self._model.train()
        if self._frozen is not None:
            self._model.backbone.eval()
        losses: list[float] = []
        with _drawing(settings.seed, epoch, device=self._device):
            for squares in self._read(settings.crops, settings.batch, partial(self._draw, epoch)):
                self._optimizer.zero_grad(set_to_none=True)
                backward = partial(self._backward, squares)
                loss = backward()
                norm = torch.nn.utils.clip_grad_norm_(self._parameters(), settings.gradient_clip)
                if wrong := self._watch.see(loss=loss, gradient=float(norm)):
                    named = ", ".join(square.source for square in squares[:3])
                    found = diagnose(self._model, backward, advice=_ADVICE)
                    raise TrainingError(f"round {epoch}, the batch with {named}: {wrong}. {found}")
                self._optimizer.step()
                self._schedule.step()
                losses += [loss] * len(squares)
        return float(np.mean(losses))

    def _draw(self, epoch: int, index: int) -> Square:
        """A square of a round, varied: by seed, round and number, whichever thread reads it."""
        rng = np.random.default_rng([self._settings.seed, epoch, index])
        return AUGMENTS[self._settings.augment](rng, self._training.draw(rng))

    def _backward(self, squares: Sequence[Square]) -> float:
        """Leave the gradients of a batch; return its loss."""
        table, weight = self._model.spec.table, self._settings.dice_weight
        targets = torch.stack([targets_of(square.labels, first=table.first) for square in squares]).to(
            self._device
        )
        maps = self._maps(squares)
        loss = segmentation_loss(_at(self._model.head(maps), targets), targets, dice_weight=weight)
        total = loss
        if self._auxiliary is not None:
            beside = segmentation_loss(_at(self._auxiliary(maps), targets), targets, dice_weight=weight)
            total = loss + self._settings.auxiliary_weight * beside
        total.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _logits(self, squares: Sequence[Square]) -> Tensor:
        """Logits at the size of the squares, which have one size."""
        height, width = squares[0].labels.shape
        return resized(self._model.head(self._maps(squares)), height, width)

    def _maps(self, squares: Sequence[Square]) -> list[Tensor]:
        if self._frozen is not None:
            each = [self._frozen(square.pixels) for square in squares]
            return [torch.cat(maps) for maps in zip(*each, strict=True)]
        pixels = np.stack([square.pixels for square in squares])
        return self._model.backbone.forward_stages(
            images_of(self._model.backbone, pixels, device=self._device)
        )

    def _read(self, count: int, batch: int, read: Callable[[int], Square]) -> Iterator[list[Square]]:
        """Squares 0 to ``count``, a batch at a time; the next batch is read while one is worked on."""
        starts = range(0, count, batch)
        with ThreadPoolExecutor(_READERS, "wsi-vmamba-squares") as pool:
            ask = [
                lambda start=start: [pool.submit(read, i) for i in range(start, min(start + batch, count))]
                for start in starts
            ]
            ahead = ask[0]()
            for number in range(len(ask)):
                now = ahead
                ahead = ask[number + 1]() if number + 1 < len(ask) else []
                yield [future.result() for future in now]

    def _groups(self) -> list[dict[str, Any]]:
        """The head first, whose rate is reported, then what only training has, then the backbone."""
        settings = self._settings
        heads = [self._model.head, *([] if self._auxiliary is None else [self._auxiliary])]
        groups = [
            {**group, "lr": settings.learning_rate}
            for head in heads
            for group in parameter_groups(head, weight_decay=settings.weight_decay)
        ]
        if settings.train_backbone:
            groups += backbone_groups(
                self._model.backbone,
                learning_rate=settings.learning_rate * settings.backbone_rate / settings.layer_decay,
                weight_decay=settings.weight_decay,
                layer_decay=settings.layer_decay,
            )
        return groups

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _new_auxiliary(self) -> Auxiliary | None:
        settings = self._settings
        if not settings.train_backbone or not settings.auxiliary_weight:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1)
            return Auxiliary(self._model.head.settings).to(self._device)

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self._model, "optimizer": self._optimizer, "schedule": self._schedule}
        return parts if self._auxiliary is None else parts | {"auxiliary": self._auxiliary}


@contextmanager
def _drawing(seed: int, epoch: int, *, device: str) -> Iterator[None]:
    """What the model itself draws follows the seed, and the caller's stream is left alone."""
    with torch.random.fork_rng(devices=[device] if is_gpu(device) else []):
        torch.manual_seed(int(np.random.default_rng([seed, epoch]).integers(2**62)))
        yield


def _at(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits at the size of the targets."""
    return resized(logits, *targets.shape[-2:])


def _mean(values: np.ndarray[Any, Any]) -> float:
    """Mean of those that are numbers; 0 where none is: nothing of any class was there or found."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
