"""What a computation took: wall and CPU seconds, and on which processor."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

#: Under this name in a record of a run.
COST = "cost"
_CPU_INFO = Path("/proc/cpuinfo")


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        """Start it."""
        self._wall_s, self._cpu_s = time.perf_counter(), _cpu_s()

    def cost(self, *, device: str, in_this_process: bool = True) -> dict[str, Any]:
        """What was spent so far, as JSON values.

        Args:
            device: "cpu", "cuda" or "cuda:1".
            in_this_process: whether this process, or children that have ended, did the work; its CPU time says nothing
                otherwise, and is None.
        """
        return {
            "wall_s": round(time.perf_counter() - self._wall_s, 3),
            "cpu_s": round(_cpu_s() - self._cpu_s, 3) if in_this_process else None,
            "device": device,
            "processor": processor(device),
        }


def total(costs: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The sum of what several computations on one device took; None of none."""
    known = list(costs)
    if not known:
        return None
    cpu = [one["cpu_s"] for one in known]
    return {
        **known[0],
        "wall_s": round(sum(one["wall_s"] for one in known), 3),
        "cpu_s": None if None in cpu else round(sum(cpu), 3),
    }


def processor(device: str) -> str:
    """Name of the processor behind a device, with the number of cores that this process may use of a CPU."""
    if device.startswith("cuda"):
        import torch

        name: str = torch.cuda.get_device_name(device)
        return name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_name()}, {cores} cores"


@cache
def _cpu_name() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, "") or platform.processor() or platform.machine()


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system
