"""Regularisation of a batch of pictures: soft labels, mixup, cutmix, erased rectangles."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Share of the picture that is erased, and ratio of the sides of what is erased.
_ERASED, _ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
_TRIES = 10


def soft_labels(labels: Tensor, *, classes: int, smoothing: float) -> Tensor:
    """Labels (n,) as probabilities (n, classes): ``smoothing`` spread over all classes, the rest on the label."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mixed(
    rng: np.random.Generator, images: Tensor, targets: Tensor, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix each picture of a batch, and its label, with the one that is as far from the other end.

    Args:
        rng: what draws; one share for the whole batch, from Beta(alpha, alpha).
        images: (n, 3, H, W), or 3 T channels of clips.
        targets: probabilities (n, classes).
        mixup: alpha for blending whole pictures; 0 leaves it out.
        cutmix: alpha for pasting a rectangle; 0 leaves it out. With both, one of them is drawn for each batch.
    """
    if not mixup and not cutmix:
        return images, targets
    pastes = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if pastes else mixup
    share = float(rng.beta(alpha, alpha))
    if pastes:
        images, share = _pasted(rng, images, share)
    else:
        images = share * images + (1 - share) * images.flip(0)
    return images, share * targets + (1 - share) * targets.flip(0)


def _pasted(rng: np.random.Generator, images: Tensor, share: float) -> tuple[Tensor, float]:
    """Paste a rectangle of 1 - ``share`` of the area, cut at the edges; return what is left of each picture."""
    height, width = images.shape[2:]
    half = [round(side * math.sqrt(1 - share)) / 2 for side in (height, width)]
    centre = [rng.integers(side) for side in (height, width)]
    top, left = (max(0, int(c - h)) for c, h in zip(centre, half, strict=True))
    bottom, right = (min(side, int(c + h)) for side, c, h in zip((height, width), centre, half, strict=True))
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


def erased(rng: np.random.Generator, images: Tensor, *, probability: float) -> Tensor:
    """Replace a rectangle of each normalised picture, with this probability, by noise of mean 0 and deviation 1."""
    if not probability:
        return images
    images = images.clone()
    height, width = images.shape[2:]
    for image in images:
        if rng.random() >= probability:
            continue
        for _ in range(_TRIES):
            area = rng.uniform(*_ERASED) * height * width
            ratio = math.exp(rng.uniform(*np.log(_ERASED_RATIO)))
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < rows < height and 0 < columns < width:
                top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
                noise = rng.standard_normal((len(image), rows, columns), dtype=np.float32)
                image[:, top : top + rows, left : left + columns] = torch.from_numpy(noise).to(image)
                break
    return images
