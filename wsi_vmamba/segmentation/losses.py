"""What a segmentation is trained by, and the counts that it is judged by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wsi_vmamba.segmentation.classes import UNKNOWN

#: Pixels that each class has anyway, so that one of few pixels does not decide the Dice loss.
_SMOOTH_PX = 1.0


def targets_of(labels: NDArray[np.uint8], *, first: int) -> Tensor:
    """Labels as numbers of outputs, int64; `UNKNOWN` stays what it is.

    Args:
        labels: numbers of classes.
        first: number of the class of the first output.
    """
    numbers = labels.astype(np.int64)
    return torch.from_numpy(np.where(numbers == UNKNOWN, UNKNOWN, numbers - first))


def segmentation_loss(logits: Tensor, targets: Tensor, *, dice_weight: float) -> Tensor:
    """Cross-entropy and Dice of logits (B, C, H, W) for targets (B, H, W); unknown pixels take no part.

    A batch of which nothing is known has the loss 0.
    """
    known = targets != UNKNOWN
    entropy = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum") / known.sum().clamp(
        min=1
    )
    if not dice_weight:
        return entropy
    return entropy + dice_weight * dice_loss(logits, targets)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One less the mean soft Dice of the classes that the targets show."""
    known = (targets != UNKNOWN)[:, None]
    shares = logits.softmax(dim=1) * known
    # Not F.one_hot, whose int64 numbers take twice as much as the logits, and once more when they are turned.
    truth = torch.zeros_like(shares).scatter_(
        1, targets[:, None].masked_fill(~known, 0), known.to(shares.dtype)
    )
    both = (shares * truth).sum(dim=(0, 2, 3))
    sizes = shares.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    shown = truth.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both + _SMOOTH_PX) / (sizes + _SMOOTH_PX)
    return ((1 - dice) * shown).sum() / shown.sum().clamp(min=1)


def confusion(truth: NDArray[np.uint8], found: NDArray[np.uint8], *, classes: int) -> NDArray[np.int64]:
    """How many pixels of each class were called what: int64 (classes + 1, classes + 1), rows are the truth.

    Args:
        truth: numbers of classes; unknown ones are left out.
        found: numbers of classes, of the same shape.
        classes: how many there are, beside what is outside.
    """
    known = truth != UNKNOWN
    numbers = truth[known].astype(np.int64) * (classes + 1) + found[known]
    counts = np.bincount(numbers, minlength=(classes + 1) ** 2)
    return counts.reshape(classes + 1, classes + 1)


def dice_and_iou(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice and intersection over union of each row of a confusion matrix; NaN where a class is in neither."""
    both = np.diag(counts).astype(np.float64)
    sizes = (counts.sum(axis=0) + counts.sum(axis=1)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * both / sizes, both / (sizes - both)
