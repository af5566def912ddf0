"""The compiled module `wsi_vmamba.ops._cpu`: whether it is here, and why not where it is missing."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.extension import load_extension

module, why, instruction_sets = load_extension("wsi_vmamba.ops._cpu")
available = module is not None
#: The instruction set used unless a call asks for another.
isa = instruction_sets[0] if instruction_sets else "none"

_FLOATS = (torch.float32,)


def native() -> Any:
    """The compiled module.

    Raises:
        UsageError: when it is missing; the message says why.
    """
    if module is None:
        raise UsageError(f"the C++ scan was asked for, but {why}; use backend='reference'")
    return module


def array(tensor: Tensor, name: str, *dtypes: torch.dtype) -> NDArray[Any]:
    """Check a tensor for the kernels and return it as they take it: an array of its memory, bfloat16 as its bits.

    Raises:
        UsageError: when it is not a contiguous CPU tensor of one of ``dtypes`` (default float32).
    """
    wanted = dtypes or _FLOATS
    if not tensor.is_cpu or tensor.dtype not in wanted or not tensor.is_contiguous():
        names = " or ".join(str(d).removeprefix("torch.") for d in wanted)
        raise UsageError(
            f"{name} must be a contiguous {names} tensor on the CPU, got {tensor.dtype} on {tensor.device}, "
            f"shape {tuple(tensor.shape)}, strides {tensor.stride()}"
        )
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def check_shape(tensor: Tensor, name: str, *expected: int) -> None:
    """Raise `UsageError` unless ``tensor`` has exactly the expected shape."""
    if tuple(tensor.shape) != expected:
        raise UsageError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
