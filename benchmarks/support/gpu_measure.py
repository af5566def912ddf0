"""Timing, ceilings and counts for the GPU benchmark: nothing here knows what is measured."""

from __future__ import annotations

import gc
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_COPY_BYTES = 2 * 1024**3
_MATMUL_SIDE = 8192


@dataclass(frozen=True)
class Measured:
    """Median seconds of one call, and the most device bytes it held beyond what was there before."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Ceilings:
    """What this GPU reaches on work that does nothing else, and its special-function rate by the data sheet."""

    copy_bytes_per_s: float
    bf16_flop_per_s: float
    special_ops_per_s: float


def measure(call: Callable[[], Any], *, warmup: int = 2, repeats: int = 7) -> Measured:
    """Time ``call`` with CUDA events, one pair per call; the first runs compile and are left out."""
    for _ in range(warmup):
        call()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return Measured(statistics.median(seconds), peak)


def environment() -> dict[str, Any]:
    """GPU, driver and library versions."""
    properties = torch.cuda.get_device_properties(0)
    fields = "driver_version,clocks.max.sm,clocks.max.memory,power.limit"
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    driver, sm_mhz, memory_mhz, watts = (
        part.strip() for part in subprocess.check_output(command, text=True).split(",")
    )
    import triton

    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "l2_mb": round(properties.L2_cache_size / 1e6, 1),
        "driver": driver,
        "max_sm_mhz": float(sm_mhz),
        "max_memory_mhz": float(memory_mhz),
        "power_limit_w": watts,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
    }


def ceilings(facts: dict[str, Any]) -> Ceilings:
    """Measure copy bandwidth (bytes read plus written) and the bf16 matmul rate on random data."""
    copy, multiply = _copy_seconds(), _matmul_seconds()
    # Every NVIDIA multiprocessor since Volta has 16 special-function lanes.
    special = 16 * facts["multiprocessors"] * facts["max_sm_mhz"] * 1e6
    return Ceilings(2 * _COPY_BYTES / copy, 2 * _MATMUL_SIDE**3 / multiply, special)


def _copy_seconds() -> float:
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return measure(lambda: target.copy_(source), repeats=11).seconds


def _matmul_seconds() -> float:
    shape = (_MATMUL_SIDE, _MATMUL_SIDE)
    a, b = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return measure(lambda: torch.mm(a, b), repeats=11).seconds


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of dictionaries; columns in the order they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_patch(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _patch(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
