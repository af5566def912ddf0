"""The C++ kernels of the CPU, or the reason why they are missing."""

from __future__ import annotations

import torch

available = False
why = "the C++ extension is not built yet"
isa = "none"


def supports(dtype: torch.dtype) -> bool:
    """Tell whether the kernel takes maps of this dtype."""
    return available and dtype == torch.float32
