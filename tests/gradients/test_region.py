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
from wsi_vmamba.gradients.strips import needed_bytes, plan_strips
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.model.drop_path import set_drop_path
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

SMALL = VMambaConfig(depths=(1, 1), dims=(16, 32), num_classes=2)
VANILLA = {
    "gated": True,
    "conv_bias": True,
    "patch_embed": 1,
    "downsample": 1,
    "mlp_ratio": 0.0,
    "d_state": 3,
}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "vanilla": replace(SMALL, ssm_ratio=2.0, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
    "shared directions": replace(SMALL, share_directions=True, conv_bias=True),
    "broken blocks of channels": replace(SMALL, dims=(12, 24)),
}


def noise(height_px: int, width_px: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height_px * width_px).integers(
        0, 256, (height_px, width_px, 3), dtype=np.uint8
    )


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
    heights = {"s1": (4, None), "vanilla": (1,)}
    for size in ((21, 40), (37, 22)) if kind == "s1" else ((21, 38),):
        features, gradients = whole(model, noise(*size))
        for strip_rows in heights.get(kind, (2,)):
            got, found = learn(model, region_features(model, noise(*size), strip_rows=strip_rows))
            assert off(got, features) < 1e-12, (size, strip_rows)
            worst, name = furthest(found, gradients)
            assert worst < 1e-12, (size, strip_rows, name)


@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
@pytest.mark.parametrize("training", [True, False], ids=["fused", "modules"])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_float64_to_rounding(kind: str, training: bool):
    model = build(KINDS[kind], torch.float64)
    pixels = noise(56, 76)
    features, gradients = whole(model, pixels)
    model.float().train(training)
    for strip_rows in (1, 5, None) if training else (5,):
        got, found = learn(model, region_features(model, pixels, strip_rows=strip_rows))
        assert off(got.double(), features) < 1e-5, strip_rows
        worst, name = furthest({key: value.double() for key, value in found.items()}, gradients)
        assert worst < 1e-4, (strip_rows, name)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
def test_two_threads_of_torch_and_of_the_kernels_give_the_same_to_rounding():
    assert torch.get_num_threads() == 2
    test_float32_is_float64_to_rounding("s1", training=True)


def test_nothing_is_kept_without_gradients_and_the_numbers_are_the_same():
    model = build(SMALL, torch.float64)
    pixels = noise(24, 40)
    with torch.no_grad():
        quiet = region_features(model, pixels, strip_rows=3)
    assert not quiet.requires_grad
    assert torch.equal(quiet, region_features(model, pixels, strip_rows=3).detach())


def test_parameters_that_are_held_get_no_gradient():
    model = build(SMALL, torch.float64)
    model.patch_embed.requires_grad_(False)
    model.layers[0].requires_grad_(False)
    _, found = learn(model, region_features(model, noise(24, 40), strip_rows=3))
    _, expected = whole(model, noise(24, 40))
    assert furthest(found, expected)[0] < 1e-12
    assert all(name.startswith(("layers.1", "classifier")) for name in found)


def test_gradients_come_once_and_only_for_the_weights_that_made_the_features():
    model = build(SMALL, torch.float64)
    features = region_features(model, noise(24, 40))
    features.sum().backward(retain_graph=True)
    with pytest.raises(UsageError, match="encode it again"):
        features.sum().backward()
    features = region_features(model, noise(24, 40))
    with torch.no_grad():
        model.patch_embed[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


def test_what_it_is_not_for_is_refused_by_name():
    model = build(SMALL, torch.float32)
    with pytest.raises(UsageError, match="NullBackbone"):
        region_features(build_backbone("null"), noise(64, 64))
    with pytest.raises(UsageError, match="too small"):
        region_features(model, noise(64, 0))
    with pytest.raises(UsageError, match=r"uint8, got \(64, 64\)"):
        region_features(model, noise(64, 64)[..., 0])
    with pytest.raises(UsageError, match=r"bfloat16 on cpu"):
        region_features(build(SMALL, torch.bfloat16), noise(64, 64))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UsageError, match="leave out autocast"):
        region_features(model, noise(64, 64))
    set_drop_path(model, 0.1)
    with pytest.raises(UsageError, match="set_drop_path"):
        region_features(model, noise(64, 64))


def test_a_region_that_does_not_fit_is_refused_with_a_size_that_does(monkeypatch: pytest.MonkeyPatch):
    model = VMamba(VARIANTS["vmamba_pico"])
    monkeypatch.setattr(region, "available_bytes", lambda: 1 << 28)
    with pytest.raises(MemoryLimitError, match=r"10000 x 10000 px needs .* GB, .*take regions of \d+ px"):
        region_features(model, np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_planned_with_the_maps_of_its_blocks(name: str):
    """Of 10,000 x 10,000 px are kept the map that enters each block and about half as much again at most."""
    config = VARIANTS[name]
    stages = plan_strips(config, height_px=10_000, width_px=10_000, itemsize=4, strip_rows=None)
    maps = sum(
        depth * dim * 4 * cut.height * cut.width
        for depth, dim, cut in zip(config.depths, config.dims, stages, strict=True)
    )
    kept = needed_bytes(config, stages, itemsize=4, learning=True) - needed_bytes(
        config, stages, itemsize=4, learning=False
    )
    assert maps <= kept <= 1.6 * maps
