"""A map in files against the same map in memory: equal bytes for every kind of backbone, and after every death."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsi_vmamba.inference.convolve import RowsInMemory
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.scratch import Scratch, open_scratch
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

SMALL = VMambaConfig(depths=(1, 2, 1), dims=(16, 24, 56))
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "d_state": 4}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "vanilla": replace(SMALL, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
}


class Pixels(RowsInMemory):
    """Pixels of an array; only what was asked for last is there."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__(torch.from_numpy(pixels))
        self.at_hand = (0, 0)

    def advance(self, first: int, last: int) -> None:
        assert max(first, 0) >= self.at_hand[0]
        self.at_hand = (max(first, 0), min(last, self.height))

    def rows(self, first: int, last: int) -> torch.Tensor:
        assert self.at_hand[0] <= first
        assert last <= self.at_hand[1]
        return super().rows(first, last)


def draw_pixels(height_px: int, width_px: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height_px * width_px)
    return rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def make(config: VMambaConfig, **options: object) -> StripForward:
    torch.manual_seed(3)
    return StripForward(VMamba(config).eval(), **{"precision": "fp32", "threads": 2, **options})


def open_here(folder: Path) -> Scratch:
    return open_scratch(folder, "s0", {"a": 1}, say=lambda text: None)


def encode(forward: StripForward, pixels: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    """Features of a pass in a scratch folder, read two rows at a time."""
    scratch = open_here(folder)
    done = forward.in_scratch(Pixels(pixels), scratch, report=lambda share: None)
    height = forward.plan(height_px=pixels.shape[0], width_px=pixels.shape[1]).stages[-1].height
    rows = [done.feature_rows(row, min(row + 2, height)) for row in range(0, height, 2)]
    scratch.remove()
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_in_files_has_the_bytes_of_one_in_memory(kind: str, tmp_path: Path) -> None:
    for strip_rows, size, precision in (
        (2, (97, 131), "fp32"),
        (3, (200, 70), "bf16"),
    ):
        forward = make(KINDS[kind], strip_rows=strip_rows, precision=precision)
        pixels = draw_pixels(*size)
        np.testing.assert_array_equal(encode(forward, pixels, tmp_path), forward(pixels))
    assert list(tmp_path.iterdir()) == []
