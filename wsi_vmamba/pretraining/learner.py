"""A backbone and the head it is trained with, and the running average of both."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from wsi_vmamba.device import Precision
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.pretraining.measured_task import MeasuredTask


class Learner(nn.Module):
    """A backbone with the head of an objective; the backbone computes in ``precision``, heads always in float32.

    Attributes:
        measured: of the measured task where it is done beside the objective.
    """

    def __init__(
        self,
        backbone: VMamba,
        head: nn.Module,
        *,
        measured: MeasuredTask | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.measured = measured
        self.precision: Precision = precision

    def feature_map(self, pixels: Tensor) -> Tensor:
        """RGB uint8 (B, H, W, 3) -> float32: the last map after the norm, (B, dim, ~H/stride, ~W/stride)."""
        images = normalise(pixels, mean=self.backbone.mean, std=self.backbone.std)
        # bf16 keeps the exponents of float32, so that no scaling of the loss is needed.
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.backbone.forward_features(images).float()

    def features(self, pixels: Tensor) -> Tensor:
        """RGB uint8 (B, H, W, 3) -> float32 (B, dim): the mean of the last map, which is what `extract` pools."""
        return self.feature_map(pixels).mean(dim=(2, 3))


def average_of(learner: Learner) -> Learner:
    """A copy that follows by `move_towards` and has no gradients."""
    copy = deepcopy(learner).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


@torch.no_grad()
def move_towards(average: Learner, learner: Learner, *, momentum: float) -> None:
    """Move every weight of the average to momentum · average + (1 - momentum) · learner."""
    torch._foreach_lerp_(list(average.parameters()), list(learner.parameters()), 1 - momentum)
    for kept, new in zip(average.buffers(), learner.buffers(), strict=True):
        kept.copy_(new)
