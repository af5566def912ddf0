"""Frames per second of a VMamba over clips beside a 3-D convolution network of equal multiply-adds, and the scan alone.

Both networks have as many stages and blocks, of the same strides; blocks of the other one are two 3x3x3 convolutions
with a residual, and its width is chosen so that the multiply-adds are those of the VMamba. They run in turns in one
process; what counts is the ratio, of the least CPU time of several passes each.

    OMP_NUM_THREADS=1 python benchmarks/video.py                                # seconds
    OMP_NUM_THREADS=1 python benchmarks/video.py --backbone vmamba_tiny_s1l8 --frames 16 --px 224 --passes 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.ops.volume import PATHS, reference_ss3d_scan, ss3d_scan
from wsi_vmamba.volume.network import VMamba3D
from wsi_vmamba.volume.ss3d import SS3D


class ConvBlock(nn.Module):
    """``x += conv(GELU(conv(norm(x))))`` with 3x3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(width)
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) -> (B, C, T, H, W)."""
        return x + self.second(nn.functional.gelu(self.first(self.norm(x))))


class ConvNet(nn.Sequential):
    """The stem of patches, stages of `ConvBlock` whose widths double, halving height and width between them."""

    def __init__(self, depths: Sequence[int], width: int, *, frames_per_token: int) -> None:
        parts: list[nn.Module] = [
            nn.Conv3d(3, width, (frames_per_token, 4, 4), stride=(frames_per_token, 4, 4))
        ]
        for stage, depth in enumerate(depths):
            parts += [ConvBlock(width << stage) for _ in range(depth)]
            if stage < len(depths) - 1:
                parts.append(nn.Conv3d(width << stage, width << stage + 1, (1, 2, 2), stride=(1, 2, 2)))
        super().__init__(*parts)


def multiply_adds(model: nn.Module, clip: Tensor) -> int:
    """Of one pass: matrices, convolutions, and of a scan four for each state, channel, path and token."""
    total = 0

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += out.numel() * module.in_features
        elif isinstance(module, nn.Conv2d | nn.Conv3d):
            total += out.numel() * module.weight[0].numel()
        elif isinstance(module, SS3D):
            tokens = out.numel() // out.shape[-1]
            per_token = module.x_proj_weight.numel() + module.dt_projs_weight.numel()
            total += tokens * (
                per_token + PATHS * module.d_inner * (4 * module.d_state + 1) + 3 * module.d_inner
            )

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.inference_mode():
        model(clip)
    for hook in hooks:
        hook.remove()
    return total


def equal_network(depths: Sequence[int], clip: Tensor, *, frames_per_token: int, wanted: int) -> ConvNet:
    """The `ConvNet` whose multiply-adds are nearest; they grow as the square of its width."""
    least = ConvNet(depths, 8, frames_per_token=frames_per_token).eval()
    guess = 8 * (wanted / multiply_adds(least, clip)) ** 0.5
    widths = range(max(2, round(guess) - 1), round(guess) + 2)
    networks = [ConvNet(depths, width, frames_per_token=frames_per_token).eval() for width in widths]
    return min(networks, key=lambda network: abs(multiply_adds(network, clip) - wanted))


def least_seconds(runs: dict[str, Callable[[], object]], *, passes: int) -> dict[str, float]:
    """Least CPU seconds of each, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(passes):
            for name, run in runs.items():
                start = time.process_time()
                run()
                seconds[name].append(time.process_time() - start)
    return {name: min(taken) for name, taken in seconds.items()}


def networks(arguments: argparse.Namespace) -> dict[str, Any]:
    """Multiply-adds and frames per CPU second of the two."""
    torch.manual_seed(0)
    config = VARIANTS[arguments.backbone]
    together = arguments.frames_per_token
    clip = torch.randn(1, 3, arguments.frames, arguments.px, arguments.px)
    ours = VMamba3D(config, frames_per_token=together).eval()
    wanted = multiply_adds(ours, clip)
    other = equal_network(config.depths, clip, frames_per_token=together, wanted=wanted)
    taken = least_seconds(
        {"vmamba": lambda: ours(clip), "conv3d": lambda: other(clip)}, passes=arguments.passes
    )
    return {
        "multiply_adds": {"vmamba": wanted, "conv3d": multiply_adds(other, clip)},
        "parameters": {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("vmamba", ours), ("conv3d", other))
        },
        "frames_per_second": {name: arguments.frames / seconds for name, seconds in taken.items()},
        "ratio": taken["conv3d"] / taken["vmamba"],
    }


def scans(arguments: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of the scan of the first stage: the kernels, and the reference on a sixteenth of the places."""
    config = VARIANTS[arguments.backbone]
    channels, rank, state = config.d_inner(0), config.dt_rank(0), config.d_state
    side, planes = arguments.px // 4, arguments.frames // arguments.frames_per_token

    def inputs(side: int) -> tuple[Tensor, ...]:
        return (
            torch.randn(1, planes, side, side, channels),
            torch.randn(1, planes, side, side, PATHS * (rank + 2 * state)),
            torch.randn(PATHS, channels, rank),
            torch.randn(PATHS, channels) - 2,
            torch.zeros(PATHS * channels, state),
            torch.ones(PATHS * channels),
        )

    large, small = inputs(side), inputs(max(1, side // 4))
    taken = least_seconds(
        {"kernels": lambda: ss3d_scan(*large), "reference": lambda: reference_ss3d_scan(*small)}, passes=1
    )
    return {"kernels": taken["kernels"], "reference": taken["reference"] * (side / max(1, side // 4)) ** 2}


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vmamba_pico", choices=list(VARIANTS))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--frames-per-token", type=int, default=2)
    parser.add_argument("--px", type=int, default=112)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    found = {"networks": networks(arguments), "scan_seconds": scans(arguments)}
    two, scan = found["networks"], found["scan_seconds"]
    print(f"{arguments.backbone}, clips of {arguments.frames} frames of {arguments.px} px, one thread\n")
    print("| network | multiply-adds | parameters | frames per CPU second |\n| --- | --- | --- | --- |")
    for name in ("vmamba", "conv3d"):
        adds, parameters = two["multiply_adds"][name], two["parameters"][name]
        print(
            f"| {name} | {adds / 1e9:.2f} G | {parameters / 1e6:.1f} M | {two['frames_per_second'][name]:.1f} |"
        )
    print(f"\nthe VMamba makes {two['ratio']:.2f} times the frames of the convolutions")
    print(
        f"scan of the first stage: {scan['kernels']:.3f} s, by the reference about "
        f"{scan['reference'] / scan['kernels']:.0f} times that"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
