"""Where it is computed and in what arithmetic: the words for it, and what they stand for on this machine."""

from __future__ import annotations

import re
from typing import Literal

from wsi_vmamba.errors import UsageError

#: Arithmetic of a forward pass, as resolved: what maps and matrix products are kept in.
Precision = Literal["fp32", "bf16"]

_DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,4})?")


def check_device(asked: str) -> str:
    """Return ``asked`` if it is a word for a device, wherever that may be.

    Raises:
        UsageError: it is none.
    """
    if not _DEVICES.fullmatch(asked):
        raise UsageError(f"unknown device {asked!r}; choose from auto, cpu, cuda, cuda:N (N counted from 0)")
    return asked


def resolve_device(asked: str) -> str:
    """Turn ``auto`` into ``cuda`` where torch sees one and into ``cpu`` elsewhere; others stay as they are.

    Args:
        asked: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: no such word, or a device that this machine does not have.
    """
    check_device(asked)
    if asked == "cpu":
        return asked
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise UsageError(f"device {asked!r} was asked for, but torch sees no CUDA device; use cpu or auto")
    index = int(asked.partition(":")[2] or 0)
    if index >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UsageError(f"device {asked!r} was asked for, but torch sees {there}")
    return asked


def is_gpu(device: str) -> bool:
    """Whether a resolved device is a GPU."""
    return device.startswith("cuda")
