"""Memory that gradients by pixels need, told before any is taken."""

from __future__ import annotations

import torch

from wsi_vmamba.device import is_gpu
from wsi_vmamba.errors import MemoryLimitError
from wsi_vmamba.inference.memory import free_bytes, largest_side_px
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.ops import cpu

#: float32 maps of the first stage that the gradients of one block hold at their peak, by measurement, and bytes that
#: they hold whatever the size of the square.
_MAPS, _FIXED_BYTES = 36, 600_000_000
#: The same for every state of every channel where the reference scan runs, which keeps all states.
_STATE_MAPS = 190


def gradient_bytes(config: VMambaConfig, *, side_px: int) -> int:
    """Most bytes that the gradients of one square need, roughly."""
    tokens = (side_px // 4) ** 2
    numbers = _MAPS * config.dims[0]
    if not cpu.available:
        numbers += _STATE_MAPS * config.d_inner(0) * config.d_state
    return _FIXED_BYTES + tokens * numbers * 4


def free_gpu_bytes(device: str, memory_limit: int | None) -> int:
    """Bytes that a GPU has free, and at most ``memory_limit``."""
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return free if memory_limit is None else min(free, memory_limit)


def require_memory(
    config: VMambaConfig, *, side_px: int, memory_limit: int | None, device: str = "cpu"
) -> None:
    """Refuse a square whose gradients would not fit.

    Args:
        config: of the network.
        side_px: of the square.
        memory_limit: most bytes the process may hold; None: what the machine has.
        device: where the gradients are taken; a GPU has memory of its own.

    Raises:
        MemoryLimitError: naming what is needed, what is left and the largest square that would fit.
    """
    allowed = free_gpu_bytes(device, memory_limit) if is_gpu(device) else free_bytes(memory_limit)
    needed = gradient_bytes(config, side_px=side_px)
    if needed <= allowed:
        return
    fits = largest_side_px(lambda side: gradient_bytes(config, side_px=side) <= allowed)
    instead = f"use --region-px {fits} or less" if fits else "no square of 256 px or more would fit"
    raise MemoryLimitError(
        f"gradients of a square of {side_px} x {side_px} px need {needed / 1e9:.1f} GB, but "
        f"{max(allowed, 0) / 1e9:.1f} GB are left; {instead}, a smaller backbone, or a higher --memory-limit-gb"
    )
