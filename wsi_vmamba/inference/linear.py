"""Linear layers of the encoder: weights packed once, matmuls through oneDNN on purpose.

torch's own choice for float32 is a library that runs at half speed on some x86 processors. The two oneDNN entry
points are private to torch, so their absence is expected and leads to the plain function.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def onednn_usable(dtype: torch.dtype) -> bool:
    """Whether torch offers packed oneDNN linears of this dtype here."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear:
    """``x W^T + b`` with an exact GELU after it where asked for; inference only."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        dtype: torch.dtype,
        gelu: bool = False,
        onednn: bool | None = None,
    ) -> None:
        """Pack ``weight`` (out, in) in ``dtype``; ``onednn`` None takes it where usable."""
        self.out_features = weight.shape[0]
        self._gelu = gelu
        self._weight = weight.detach().to(dtype).contiguous()
        self._bias = None if bias is None else bias.detach().to(dtype).contiguous()
        self._onednn = onednn_usable(dtype) if onednn is None else onednn
        if self._onednn:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, 2048)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (tokens, in) -> (tokens, out), dtype of the weights."""
        if self._onednn:
            after, algorithm = ("gelu", "none") if self._gelu else ("none", "")
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, after, [], algorithm
            )
            return packed
        out = F.linear(x, self._weight, self._bias)
        return F.gelu(out) if self._gelu else out
