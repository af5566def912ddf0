"""Stochastic depth: in training a branch of a block is left out now and then, for each image on its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_vmamba.errors import UsageError


def drop_path(branch: Tensor, *, rate: float, training: bool) -> Tensor:
    """Zero the images (first axis) of a branch with probability ``rate``, and scale the others to keep the mean."""
    if rate == 0.0 or not training:
        return branch
    kept = torch.rand(len(branch), device=branch.device) >= rate
    return branch * (kept.to(branch.dtype) / (1 - rate)).view(-1, *(1,) * (branch.ndim - 1))


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Have the blocks of a VMamba drop their branches at rates that rise evenly from 0 in the first to ``rate``.

    Raises:
        UsageError: the rate is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise UsageError(f"drop_path must be at least 0 and below 1, got {rate}")
    stages = model.get_submodule("layers").children()
    blocks = [block for stage in stages for block in stage.get_submodule("blocks").children()]
    for number, block in enumerate(blocks):
        block.drop_path_rate = rate * number / max(len(blocks) - 1, 1)  # type: ignore[assignment]
