"""The task that the shipped weights are trained for: naming the tissue of each square of the last feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.datasets.synthetic import TUMOUR_INDEX, TileBatch
from wsi_vmamba.errors import TrainingError
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.training.optimise import parameter_groups
from wsi_vmamba.training.pretrain_tiles import Settings, Windows, soft_target, view


def optimizer_of(model: VMamba, settings: Settings) -> torch.optim.AdamW:
    """AdamW; vectors, and the parameters of the recurrence, are not decayed."""
    groups = parameter_groups(model, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))


def take_step(
    model: VMamba,
    optimizer: torch.optim.Optimizer,
    tiles: Windows,
    settings: Settings,
    step: int,
) -> float:
    """One step of the optimiser; returns the loss.

    Raises:
        TrainingError: it is not finite.
    """
    model.train()
    rate = _learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    images, target = tiles
    # Matrix products in bfloat16 (the scan keeps to float32): half the time, and the weights end as float16.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = _dense_logits(model, images).float()
    loss = -(torch.from_numpy(target) * F.log_softmax(logits, dim=-1)).sum(-1).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"the loss became {value} at step {step}; lower the learning rate")
    return value


@torch.no_grad()
def evaluate(model: VMamba, chunks: Sequence[TileBatch]) -> dict[str, float]:
    """Accuracies on undisturbed tiles, at 1 um per pixel ("far") and at 0.5 ("near")."""
    model.eval()
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for name, shrink in (("near", 1), ("far", 2)):
        right, tumour_truth, tumour_score = [], [], []
        for chunk in chunks:
            views = [
                view(rng, image, tissue, side_px=256, shrink=shrink)
                for image, tissue in zip(chunk.images, chunk.tissue, strict=True)
            ]
            target = np.stack([soft_target(squares) for _, squares in views])
            images = np.stack([image for image, _ in views])
            scores = torch.cat(
                [_dense_logits(model, part).softmax(-1) for part in np.split(images, 6)]
            ).numpy()
            pure = target.max(axis=-1) > 0.9
            right.append((scores.argmax(-1) == target.argmax(-1))[pure])
            tumour_truth.append(target[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
            tumour_score.append(scores[..., TUMOUR_INDEX].mean(axis=(1, 2)) >= 0.25)
        truth, guess = np.concatenate(tumour_truth), np.concatenate(tumour_score)
        found[f"{name}_square_accuracy"] = round(float(np.concatenate(right).mean()), 4)
        found[f"{name}_tumour_tile_accuracy"] = round(float((truth == guess).mean()), 4)
        found[f"{name}_tumour_sensitivity"] = round(float(guess[truth].mean()), 4)
        found[f"{name}_tumour_specificity"] = round(float(1 - guess[~truth].mean()), 4)
    return found


def _learning_rate(settings: Settings, step: int) -> float:
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _dense_logits(model: VMamba, images: NDArray[np.uint8]) -> Tensor:
    """Logits of the tissues, (B, H / 32, W / 32, tissues), of RGB tiles (B, H, W, 3)."""
    features = model.forward_features(normalise(torch.from_numpy(images), mean=model.mean, std=model.std))
    logits: Tensor = model.classifier.get_submodule("head")(features.permute(0, 2, 3, 1))
    return logits
