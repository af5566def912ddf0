"""The weights of a fine-tuning: where they start, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import safetensors.torch

from wsi_vmamba import __version__
from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.weights import apply_state, read_state
from wsi_vmamba.training.finetune import Classifier
from wsi_vmamba.volume.build import build_volume, for_volumes


def start(config: FinetuneConfig, *, n_classes: int) -> tuple[Classifier, str]:
    """The backbone with its weights and a new head, for clips in its form for volumes, and whence the weights are.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights.
        WeightsError: the file does not fit.
    """
    if config.backbone not in VARIANTS:
        raise UsageError(f"only VMamba backbones are fine-tuned here, {config.backbone} is none")
    weights = resolve_weights(config.backbone, config.weights)
    model: Classifier
    if config.clip_frames:
        model = build_volume(
            config.backbone, num_classes=n_classes, frames_per_token=config.frames_per_token, seed=config.seed
        )
    else:
        model = variant(config.backbone, num_classes=n_classes, weights=None, seed=config.seed)
    if weights.path is not None:
        # The classes are others than those the weights were trained for, even where they are as many.
        state = {k: v for k, v in read_state(weights.path).items() if not k.startswith("classifier.head.")}
        if config.clip_frames:
            state = for_volumes(state, frames_per_token=config.frames_per_token)
        head = {k: v for k, v in model.state_dict().items() if k.startswith("classifier.head.")}
        apply_state(model, {**state, **head}, source=str(weights.path))
    model.grad_checkpointing = config.checkpointing
    return model, weights.note


def packed(model: Classifier, config: FinetuneConfig, classes: Sequence[str]) -> bytes:
    """The model as a safetensors file, with what made it in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": "pt",
        "backbone": config.backbone,
        "classes": ",".join(classes),
        "wsi_vmamba": __version__,
    }
    if config.clip_frames:
        header |= {"clip_frames": str(config.clip_frames), "frames_per_token": str(config.frames_per_token)}
        header["class_names"] = json.dumps(list(classes))
        if config.crop_px:
            header["crop_px"] = str(config.crop_px)
    content: bytes = safetensors.torch.save(tensors, metadata=header)
    return content
