"""Memory of the encoder: one reused block, and what the machine can still give."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import psutil
import torch
from torch import Tensor

from wsi_vmamba.errors import MemoryLimitError

_ALIGNMENT = 64

#: Name -> (shape, dtype) of tensors that live side by side in one block of memory.
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def layout_bytes(layout: Layout) -> int:
    """Bytes that `carve` needs for a layout."""
    return sum(_padded(prod(shape) * dtype.itemsize) for shape, dtype in layout.values())


def carve(memory: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Cut uninitialised tensors out of ``memory``, a flat uint8 tensor of at least `layout_bytes`."""
    tensors: dict[str, Tensor] = {}
    start = 0
    for name, (shape, dtype) in layout.items():
        stop = start + prod(shape) * dtype.itemsize
        tensors[name] = memory[start:stop].view(dtype).view(shape)
        start += _padded(stop - start)
    return tensors


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


class Arena:
    """A block of memory that grows when a larger region comes and is reused otherwise.

    Fresh pages cost more time than most operators that fill them, so they are touched once.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return 0 if self._block is None else self._block.numel()

    def take(self, n_bytes: int) -> Tensor:
        """A flat uint8 tensor of ``n_bytes``, uninitialised; what was taken before is no longer valid."""
        if self._block is None or self._block.numel() < n_bytes:
            self._block = None  # give the old block back before the new one is made
            self._block = torch.empty(max(n_bytes, 1), dtype=torch.uint8)
        return self._block[:n_bytes]


def resident_bytes() -> int:
    """Bytes of this process in memory now."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def peak_resident_bytes() -> int:
    """Most bytes this process has had in memory. getrusage would count what it was forked from as well."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int:
    """Bytes that can still be had without swapping: of the machine, or of the control group if that is less."""
    free: int = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def free_bytes(memory_limit: int | None) -> int:
    """Bytes the process may still allocate: what the machine has, and what ``memory_limit`` leaves of it."""
    free = available_bytes()
    return free if memory_limit is None else min(free, memory_limit - resident_bytes())


def largest_side_px(fits: Callable[[int], bool]) -> int:
    """Side of the largest square region that fits, in steps of 256 px; 0 if none does."""
    low, high = 0, 1 << 10  # sides / 256: one that fits, one taken as too large
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle)
    return 256 * low


def too_large(height_px: int, width_px: int, *, needed: int, allowed: int, side_px: int) -> MemoryLimitError:
    """The refusal of a region, with the side of a square one that would fit."""
    instead = f"use --region-px {side_px} or less" if side_px else "no region would fit"
    return MemoryLimitError(
        f"a region of {width_px} x {height_px} px needs {needed / 1e9:.1f} GB, but {max(allowed, 0) / 1e9:.1f} GB "
        f"are left; {instead}, --precision bf16, or a higher --memory-limit-gb"
    )
