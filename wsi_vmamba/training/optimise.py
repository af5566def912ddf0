"""Which parameters decay, how fast each layer of a backbone learns, and the running average of weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.volume.network import VMamba3D

#: Parameters that set the time scales of a scan: pulled towards zero they would pull those towards one value.
_SCAN_PARAMETERS = ("A_logs", "Ds", "dt_bias", "dt_projs_bias")


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters for AdamW: matrices decay; biases, norms and the scan's own parameters do not."""
    decaying: list[nn.Parameter] = []
    still: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decaying if _decays(name, parameter) else still).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": still, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def backbone_groups(
    backbone: VMamba | VMamba3D, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group a backbone's parameters for fine-tuning: the deeper a layer, the faster it learns.

    The classifier learns at ``learning_rate``, the last block at ``layer_decay`` times that, the one before at
    ``layer_decay``² times, and so on down to the patch embedding; a downsampling belongs to the block before it.

    Args:
        backbone: the model to fine-tune.
        learning_rate: of the classifier.
        weight_decay: of matrices; see `parameter_groups`.
        layer_decay: in (0, 1]; 1 makes all layers learn alike.

    Returns:
        Groups for a torch optimizer, each with ``params``, ``lr`` and ``weight_decay``, from the deepest.
    """
    depths = _depths(backbone)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in backbone.named_parameters():
        part = next(prefix for prefix in depths if name.startswith(prefix))
        groups[depths[part], _decays(name, parameter)].append(parameter)
    return [
        {"params": members, "lr": learning_rate * layer_decay**depth, "weight_decay": weight_decay * decays}
        for (depth, decays), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def _depths(backbone: VMamba | VMamba3D) -> dict[str, int]:
    """How far below the output each part of a backbone is, by the prefix of its parameters' names."""
    depths = {"classifier.": 0}
    depth = 0
    for number in reversed(range(len(backbone.layers))):
        depths[f"layers.{number}.downsample."] = depth + 1
        for block in reversed(range(backbone.config.depths[number])):
            depth += 1
            depths[f"layers.{number}.blocks.{block}."] = depth
    depths["patch_embed."] = depth + 1
    return depths


def rate_share(step: int, *, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step, counted from 0: linear rise, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(step - warmup, total - warmup) / (total - warmup)))


def averaged(model: nn.Module, *, decay: float) -> AveragedModel:
    """Copy a model to follow it: each update moves the copy to decay · copy + (1 - decay) · model.

    The decay rises to ``decay`` as (1 + n) / (10 + n) over the first n updates, so that the start is soon forgotten; at
    0 the copy is the model.
    """
    return AveragedModel(model, avg_fn=_average(decay))


def _average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def average(kept: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        n = int(updates)
        share = min(decay, (1 + n) / (10 + n))
        return kept * share + new * (1 - share)

    return average


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and name.rpartition(".")[2] not in _SCAN_PARAMETERS
