"""The weights of a fine-tuning: where they start, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import safetensors.torch

from wsi_vmamba import __version__
from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.build import variant
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import apply_state, read_state


def start(config: FinetuneConfig, *, n_classes: int) -> tuple[VMamba, str]:
    """The backbone with its weights and a new head, and a line on where the weights are from.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights.
        WeightsError: the file does not fit.
    """
    if config.backbone not in VARIANTS:
        raise UsageError(f"only VMamba backbones are fine-tuned here, {config.backbone} is none")
    weights = resolve_weights(config.backbone, config.weights)
    model = variant(config.backbone, num_classes=n_classes, weights=None, seed=config.seed)
    if weights.path is not None:
        # The classes are others than those the weights were trained for, even where they are as many.
        state = {k: v for k, v in read_state(weights.path).items() if not k.startswith("classifier.head.")}
        head = {k: v for k, v in model.state_dict().items() if k.startswith("classifier.head.")}
        apply_state(model, {**state, **head}, source=str(weights.path))
    model.grad_checkpointing = config.checkpointing
    return model, weights.note


def packed(model: VMamba, config: FinetuneConfig, classes: Sequence[str]) -> bytes:
    """The model as a safetensors file, with what made it in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": "pt",
        "backbone": config.backbone,
        "classes": ",".join(classes),
        "wsi_vmamba": __version__,
    }
    content: bytes = safetensors.torch.save(tensors, metadata=header)
    return content
