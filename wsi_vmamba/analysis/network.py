"""The VMamba that is looked into: built as by the other commands, its blocks by name, its features with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.device import resolve_device
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.blocks import Block
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.model.window_names import is_window_name


@dataclass(frozen=True, kw_only=True)
class Network:
    """A VMamba in evaluation mode, without gradients of its weights, and what it is.

    Attributes:
        model: the network, in float32.
        backbone: its name.
        note: where the weights come from, in words.
        device: where it computes, as resolved.
    """

    model: VMamba
    backbone: str
    note: str
    device: str = "cpu"

    def facts(self) -> dict[str, str]:
        """For records."""
        return {
            "backbone": self.backbone,
            "weights": self.note,
            "weights_hash": weights_hash(self.model),
            "device": self.device,
        }


def load_network(backbone: str, weights: str, *, seed: int, device: str) -> Network:
    """Build a VMamba, where it will compute.

    Raises:
        UsageError: the backbone is no VMamba, or there are no such weights, or no such device.
        WeightsError: they do not fit.
    """
    place = resolve_device(device)
    resolved = resolve_weights(backbone, weights)
    # What timm would have to download first is no VMamba either.
    model = None if is_window_name(backbone) else build_backbone(backbone, weights=resolved.path, seed=seed)
    if not isinstance(model, VMamba):
        raise UsageError(
            f"{backbone} is no VMamba and has no scans to look into; choose a backbone vmamba_..."
        )
    model.to(place).eval().requires_grad_(False)
    return Network(model=model, backbone=backbone, note=resolved.note, device=place)


def blocks_of(model: VMamba) -> dict[str, Block]:
    """Every block under its name in the model (``layers.0.blocks.1``), in the order of the forward pass."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Block)}


def block_named(model: VMamba, name: str | None) -> tuple[str, Block]:
    """A block; by default the last of the last but one stage (of the only one).

    Raises:
        UnknownNameError: there is none of that name; all are listed.
    """
    blocks = blocks_of(model)
    if name is None:
        stage = max(0, len(model.config.depths) - 2)
        name = f"layers.{stage}.blocks.{model.config.depths[stage] - 1}"
    if name not in blocks:
        raise UnknownNameError("block", name, blocks)
    return name, blocks[name]


def images_of(model: VMamba, pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures (B, H, W, 3) as the network takes them, (B, 3, H, W), where it computes."""
    place = next(model.parameters()).device
    return normalise(torch.from_numpy(pictures).to(place), mean=model.mean, std=model.std)


def features_of(model: VMamba, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features (B, h, w, D) of pictures (B, H, W, 3), without gradients."""
    with torch.inference_mode():
        found = [model.forward_features(images_of(model, one[None])) for one in pictures]
    return np.asarray(torch.cat(found).permute(0, 2, 3, 1).double().cpu().numpy())


def features_in_little_memory(model: VMamba, images: Tensor) -> Tensor:
    """Features (B, h, w, D), whose gradients need the inner maps of one block at a time: the others are made again."""
    tokens: Tensor = checkpoint(model.patch_embed, images, use_reentrant=False)
    for stage in model.layers:
        for block in stage.get_submodule("blocks").children():
            tokens = checkpoint(block, tokens, use_reentrant=False)
        tokens = stage.get_submodule("downsample")(tokens)
    normed: Tensor = model.classifier.get_submodule("norm")(tokens)
    return normed
