"""The parameters of one SS2D layer, laid out once for the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.ops.cpu_module import check_shape

#: Channels per block of packed weights; a constant of the kernels.
BLOCK = 16
LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class ScanWeights:
    """Packed parameters of the four scans; channels are padded with zeros to whole blocks (README.md).

    Attributes:
        weight: (4, padded / 16, R, 16), dt weights times log2(e).
        bias: (4, padded), dt biases times log2(e).
        rate: (4, N, padded), A = -exp(A_logs).
        skip: (padded,), the sum of the four skip weights.
        channels: channels of the map before padding.
    """

    weight: Tensor
    bias: Tensor
    rate: Tensor
    skip: Tensor
    channels: int

    @property
    def padded(self) -> int:
        """Channels, rounded up to whole blocks."""
        return self.rate.shape[2]

    @property
    def rank(self) -> int:
        """Rank R of the dt projection."""
        return self.weight.shape[2]

    @property
    def state(self) -> int:
        """States N per channel."""
        return self.rate.shape[1]

    @property
    def proj_width(self) -> int:
        """Projected numbers per token: 4 * (R + 2 N)."""
        return 4 * (self.rank + 2 * self.state)

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, rate and skip, in the order the kernels take them."""
        return self.weight, self.bias, self.rate, self.skip


def pack_scan(dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor) -> ScanWeights:
    """Pack the parameters of `wsi_vmamba.ops.ss2d_scan` (same shapes, any float dtype) for the kernels."""
    _, channels, rank = dt_weight.shape
    state = A_logs.shape[-1]
    check_shape(dt_weight, "dt_weight", 4, channels, rank)
    check_shape(dt_bias, "dt_bias", 4, channels)
    check_shape(A_logs, "A_logs", 4 * channels, state)
    check_shape(Ds, "Ds", 4 * channels)
    padding = -channels % BLOCK
    dt_weight, dt_bias, A_logs, Ds = (t.detach().float() for t in (dt_weight, dt_bias, A_logs, Ds))
    blocked = F.pad(dt_weight.transpose(1, 2) * LOG2_E, (0, padding)).view(4, rank, -1, BLOCK)
    rate = -torch.exp(A_logs).view(4, channels, state).transpose(1, 2)
    return ScanWeights(
        weight=blocked.transpose(1, 2).contiguous(),
        bias=F.pad(dt_bias * LOG2_E, (0, padding)).contiguous(),
        rate=F.pad(rate, (0, padding)).contiguous(),
        skip=F.pad(Ds.view(4, channels).sum(0), (0, padding)).contiguous(),
        channels=channels,
    )


def unpack_weight(packed: Tensor, channels: int) -> Tensor:
    """Undo the blocking of (4, blocks, R, 16): back to (4, channels, R)."""
    return packed.transpose(2, 3).reshape(4, -1, packed.shape[2])[:, :channels]


def unpack_gradients(
    weights: ScanWeights, weight: Tensor, bias: Tensor, rate: Tensor, skip: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the packed arrays, in natural units, as those of dt_weight, dt_bias, A_logs and Ds."""
    channels = weights.channels
    # A = -exp(A_logs), so d/dA_logs = A d/dA.
    grad_A_logs = (rate * weights.rate)[:, :, :channels].transpose(1, 2).reshape(4 * channels, weights.state)
    return (
        unpack_weight(weight, channels).contiguous(),
        bias[:, :channels].contiguous(),
        grad_A_logs,
        skip[:channels].repeat(4),
    )
