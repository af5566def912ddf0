"""Gradients of a region strip by strip are those of plain autograd, for every kind of block and any strips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.gradients import region
from wsi_vmamba.gradients.region import region_features
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

SMALL = VMambaConfig(depths=(1, 2), dims=(16, 32), num_classes=2)
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0.0, "d_state": 3}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "vanilla": replace(SMALL, ssm_ratio=2.0, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
    "shared directions": replace(SMALL, share_directions=True, conv_bias=True),
    "broken blocks of channels": replace(SMALL, dims=(12, 24)),
}


def noise(height_px: int, width_px: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height_px * width_px).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def build(config: VMambaConfig, dtype: torch.dtype) -> VMamba:
    """Away from the small values of initialisation, where mistakes would hide."""
    torch.manual_seed(3)
    model = VMamba(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.endswith("weight"):
                parameter.mul_(3)
            elif parameter.ndim == 1 and "dt_" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif name.endswith("dt_projs_bias"):
                parameter.sub_(1.0)  # states that reach from strip to strip
    return model.to(dtype)


def learn(model: VMamba, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Features, and gradients of a loss in which every token counts in its own way."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.zero_grad(set_to_none=True)
    (features * weights.to(features.dtype)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return features.detach(), found


def whole(model: VMamba, pixels: NDArray[np.uint8]) -> tuple[Tensor, dict[str, Tensor]]:
    image = normalise(torch.from_numpy(pixels)[None], mean=model.mean, std=model.std)
    dtype = next(model.parameters()).dtype
    return learn(model, model.forward_features(image.to(dtype))[0].permute(1, 2, 0))


def off(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def furthest(got: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    assert got.keys() == expected.keys()
    return max((off(got[name], expected[name]), name) for name in expected)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_is_plain_autograd_to_twelve_digits(kind: str):
    model = build(KINDS[kind], torch.float64)
    for size, heights in (((40, 56), (1, 3, None)), ((37, 22), (2,))):
        features, gradients = whole(model, noise(*size))
        for strip_rows in heights:
            got, found = learn(model, region_features(model, noise(*size), strip_rows=strip_rows))
            assert off(got, features) < 1e-12, (size, strip_rows)
            worst, name = furthest(found, gradients)
            assert worst < 1e-12, (size, strip_rows, name)


@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
@pytest.mark.parametrize("training", [True, False], ids=["fused", "modules"])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_float64_to_rounding(kind: str, training: bool):
    model = build(KINDS[kind], torch.float64)
    pixels = noise(72, 100)
    features, gradients = whole(model, pixels)
    model.float().train(training)
    for strip_rows in (1, 5, None):
        got, found = learn(model, region_features(model, pixels, strip_rows=strip_rows))
        assert off(got.double(), features) < 1e-5, strip_rows
        worst, name = furthest({key: value.double() for key, value in found.items()}, gradients)
        assert worst < 1e-4, (strip_rows, name)
