"""A backbone without weights: mean and spread of the colours. Stand-in for pipeline tests, and a baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.variants import SQUARE_PX


class NullBackbone(nn.Module):
    """Mean and mean square of each normalised colour over squares of 32 px: 6 channels, no parameters."""

    dim = 6
    stride_px = SQUARE_PX
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) -> (B, 6, ceil(H/32), ceil(W/32)); squares at the border average what they have."""
        stride = self.stride_px
        padding = (0, -x.shape[3] % stride, 0, -x.shape[2] % stride)
        # A channel of ones carries along how much of each square lies on the image.
        channels = torch.cat([x, x * x, torch.ones_like(x[:, :1])], dim=1)
        pooled = F.avg_pool2d(F.pad(channels, padding), stride)
        return pooled[:, :-1] / pooled[:, -1:]
