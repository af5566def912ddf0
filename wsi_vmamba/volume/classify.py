"""Classify clips with a network that was fine-tuned on clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wsi_vmamba.crop import middle_square
from wsi_vmamba.device import resolve_device
from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.volume.build import build_volume
from wsi_vmamba.volume.network import VMamba3D
from wsi_vmamba.volume.pixels import as_picture, as_volumes, normalise_clips


class ClipClassifier:
    """A network for clips with the names of its classes; built by `load_clip_classifier`.

    Attributes:
        classes: names of the classes, in the order of the probabilities.
        clip_frames: frames of the clips that it was trained on; others are taken too.
        crop_px: side of the square that the middle of a clip is resized to first, as it was for judging in training;
            None takes clips whole.
        model: the network.
    """

    def __init__(
        self,
        model: VMamba3D,
        *,
        classes: Sequence[str],
        clip_frames: int,
        device: str,
        crop_px: int | None = None,
    ) -> None:
        """Take over ``model``; it is moved to ``device`` and put in evaluation mode."""
        self.classes, self.clip_frames, self.crop_px = tuple(classes), clip_frames, crop_px
        self.model = model.to(device).eval()
        self._device = device

    def __call__(self, clip: NDArray[np.uint8]) -> dict[str, float]:
        """Probability of each class.

        Args:
            clip: RGB frames (T, H, W, 3), uint8; T a multiple of the frames that the network takes together.

        Raises:
            UsageError: it is no such array.
        """
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
            raise UsageError(f"expected uint8 RGB frames (T, H, W, 3), got {clip.dtype} {clip.shape}")
        picture = as_picture(clip)
        if self.crop_px is not None:
            picture = middle_square(picture, side_px=self.crop_px)
        pixels = torch.from_numpy(picture)[None].to(self._device)
        with torch.inference_mode():
            images = normalise_clips(pixels, mean=self.model.mean, std=self.model.std)
            shares = self.model(as_volumes(images)).float().softmax(dim=1)[0].tolist()
        return dict(zip(self.classes, shares, strict=True))


def load_clip_classifier(weights: str | Path, *, device: str = "auto") -> ClipClassifier:
    """Load what `finetune --clip-frames` wrote.

    Raises:
        WeightsError: the file is missing, damaged, or not of a fine-tuning on clips.
    """
    facts = _facts(Path(weights))
    model = build_volume(facts["backbone"], weights=weights, frames_per_token=int(facts["frames_per_token"]))
    return ClipClassifier(
        model,
        classes=json.loads(facts["class_names"]),
        clip_frames=int(facts["clip_frames"]),
        crop_px=int(facts["crop_px"]) if "crop_px" in facts else None,
        device=resolve_device(device),
    )


def _facts(path: Path) -> dict[str, Any]:
    """The header of a file of weights.

    Raises:
        WeightsError: see `load_clip_classifier`.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}); give the weights.safetensors of a fine-tuning"
        ) from error
    if "clip_frames" not in facts:
        raise WeightsError(
            f"{path} is not of a fine-tuning on clips; make one with `finetune CLIPS --clip-frames N`"
        )
    return dict(facts)
