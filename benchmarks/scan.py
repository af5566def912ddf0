"""Speed of the SS2D scan: the C++ kernels against the reference, and on large maps. Prints ratios of one run.

    python benchmarks/scan.py [--json OUT] [--quick]

Rates are G elem/s per core: token x channel x direction over CPU seconds. CPU seconds are compared because
machines are shared; on a busy machine they still grow (caches, sibling threads), so compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wsi_vmamba.ops import cpu, reference

#: name -> (height, width, channels, dt rank, states)
MAPS = {
    "256x256x96": (256, 256, 96, 6, 1),
    "2500x2500x96": (2500, 2500, 96, 6, 1),
    "1250x1250x192": (1250, 1250, 192, 12, 1),
    "625x625x384": (625, 625, 384, 24, 1),
    "256x256x512": (256, 256, 512, 32, 1),
    "128x128x192, 16 states": (128, 128, 192, 6, 16),
}


def make_inputs(height: int, width: int, channels: int, rank: int, state: int) -> list[Tensor]:
    """Random (u, proj, dt_weight, dt_bias, A_logs, Ds) of one map."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    return [
        normal(1, height, width, channels),
        normal(1, height, width, 4 * (rank + 2 * state)),
        normal(4, channels, rank) * rank**-0.5,
        normal(4, channels) - 3,
        torch.log(torch.arange(1, state + 1.0)).repeat(4 * channels, 1),
        torch.ones(4 * channels),
    ]


def best_cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """The least CPU seconds over all threads of this process."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def measure_map(shape: tuple[int, int, int, int, int], *, repeats: int) -> dict[str, float]:
    """CPU seconds and rates of the forward scan of one map, by storage."""
    u, proj, *params = make_inputs(*shape)
    weights = cpu.pack_scan(*params)
    elements = 4 * u.numel()
    results: dict[str, float] = {}
    out = torch.empty(u.shape)
    for name, stored in (("float32", u), ("bfloat16", u.bfloat16())):
        seconds = best_cpu_seconds(partial(cpu.scan_map, stored, proj, weights, out=out), repeats)
        results[f"{name} CPU s"] = seconds
        results[f"{name} G elem/s/core"] = elements / seconds / 1e9
    return results


def measure_against_reference(shape: tuple[int, int, int, int, int]) -> dict[str, float]:
    """How many times faster the kernels are than the reference, forward and forward plus backward."""
    inputs = make_inputs(*shape)
    kernel = best_cpu_seconds(lambda: cpu.ss2d_scan(*inputs), 5)
    with torch.no_grad():
        slow = best_cpu_seconds(lambda: reference.ss2d_scan(*inputs), 1)
    small = [t.requires_grad_() for t in make_inputs(64, 64, *shape[2:])]

    def train(scan: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(scan(*small).sum(), small)

    kernel_train = best_cpu_seconds(train(cpu.ss2d_scan), 5)
    slow_train = best_cpu_seconds(train(reference.ss2d_scan), 1)
    return {
        "reference CPU s": slow,
        "kernel CPU s": kernel,
        "forward ratio": slow / kernel,
        "training ratio (64x64)": slow_train / kernel_train,
    }


def main() -> None:
    """Run everything and print one line per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="leave out maps above 1250 x 1250")
    args = parser.parse_args()
    results: dict[str, object] = {"isa": cpu.isa, "threads": torch.get_num_threads()}
    print(f"instruction set {cpu.isa}, {torch.get_num_threads()} threads")
    against = measure_against_reference(MAPS["256x256x96"])
    results["against the reference, 256x256x96"] = against
    print("against the reference, 256x256x96:", {k: round(v, 3) for k, v in against.items()})
    for name, shape in MAPS.items():
        if args.quick and shape[0] > 1250:
            continue
        measured = measure_map(shape, repeats=3)
        results[name] = measured
        print(f"{name}:", {k: round(v, 3) for k, v in measured.items()}, flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
