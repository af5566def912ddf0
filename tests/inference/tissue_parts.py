"""What tests of the tissue of a region share: small models, tissue in pieces, pixels, the pass in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsi_vmamba.inference.convolve import RowsInMemory
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.scratch import open_scratch
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.vmamba import VMamba

SMALL = VMambaConfig(depths=(1, 2, 1), dims=(16, 24, 56))
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "d_state": 4}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "vanilla": replace(SMALL, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
}
PATCH_PX = 32
#: Tissue in pieces: glass in the middle of rows, a row of it all through, patches that touch at corners only.
PIECES = ["#..##", "##..#", ".....", ".#.#.", "####."]


def tissue_of(rows: list[str]) -> NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in row] for row in rows])


def make_model(config: VMambaConfig) -> VMamba:
    torch.manual_seed(3)
    model = VMamba(config).eval()
    with torch.no_grad():  # away from the small values of initialisation, where mistakes would hide
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.endswith("weight"):
                parameter.mul_(3)
            elif parameter.ndim == 1 and "dt_" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def draw_pixels(tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rows, columns = tissue.shape
    return np.random.default_rng(7).integers(0, 256, (rows * PATCH_PX, columns * PATCH_PX, 3), dtype=np.uint8)


class Pixels(RowsInMemory):
    def advance(self, first: int, last: int) -> None:
        pass


def pooled(
    model: VMamba, pixels: NDArray[np.uint8], tissue: NDArray[np.bool_], folder: Path, **options: object
) -> NDArray[np.float32]:
    forward = StripForward(model, **{"precision": "fp32", "threads": 1, **options})
    scratch = open_scratch(folder, "s0", {}, say=print)
    shares: list[float] = []
    done = forward.tissue_in_scratch(Pixels(torch.from_numpy(pixels)), tissue, scratch, report=shares.append)
    features = done.pooled()
    assert shares[-1] == pytest.approx(1.0)
    scratch.remove()
    return features
