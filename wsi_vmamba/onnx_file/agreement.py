"""How far what a file computes is from what the network in torch computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.onnx_file.network import LOGITS
from wsi_vmamba.onnx_file.session import OnnxSession


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of one batch of images.

    Attributes:
        shape: of the images, (B, 3, H, W).
        largest: largest difference of a feature.
        spread: standard deviation of the features in torch, for comparison.
        cosine: smallest cosine of the mean feature of an image with torch's.
        same_class: images whose largest logit is the same; None where the file has no head.
    """

    shape: tuple[int, ...]
    largest: float
    spread: float
    cosine: float
    same_class: int | None


@torch.inference_mode()
def compare(session: OnnxSession, model: VMamba, images: Tensor) -> Agreement:
    """Run normalised images (B, 3, H, W) through both."""
    model = model.eval()
    expected = model.forward_features(images).numpy()
    outputs = dict(zip(session.outputs, session.run(images.numpy()), strict=True))
    found = next(iter(outputs.values()))
    same: int | None = None
    if LOGITS in outputs:
        same = int((outputs[LOGITS].argmax(1) == model(images).numpy().argmax(1)).sum())
    return Agreement(
        shape=tuple(images.shape),
        largest=float(np.abs(found - expected).max()),
        spread=float(expected.std()),
        cosine=_smallest_cosine(_pooled(found), _pooled(expected)),
        same_class=same,
    )


def _pooled(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = maps.astype(np.float64).mean(axis=(2, 3))
    return means


def _smallest_cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)).min())
