"""The GPU encoder against the plain model: on a CUDA device where there is one, the same code on the CPU elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference.cuda_encoder import CudaEncoder
from wsi_vmamba.inference.cuda_forward import CudaForward
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.vmamba import VMamba

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN: dict[str, Any] = {"depths": [1, 2], "dims": [16, 24]}
CONFIGS: dict[str, dict[str, Any]] = {
    "published s1": {**PLAIN, "depths": [1, 1, 1, 1], "dims": [16, 24, 32, 48]},
    "ratio 2": {**PLAIN, "ssm_ratio": 2.0},
    "narrow": {**PLAIN, "ssm_ratio": 0.5, "share_directions": True},
    "gated, states, bias": {**PLAIN, "gated": True, "d_state": 3, "conv_bias": True},
    "vanilla": {
        **PLAIN, "gated": True, "d_state": 2, "conv_bias": True, "mlp_ratio": 0.0, "patch_embed": 1, "downsample": 1,
    },
    "downsample 2": {**PLAIN, "downsample": 2},
}  # fmt: skip


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def build(config: dict[str, Any]) -> VMamba:
    model = build_backbone(config)
    assert isinstance(model, VMamba)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no zeros and no ones: a forgotten bias or weight must show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def expected(model: VMamba, image: np.ndarray) -> torch.Tensor:
    x = (torch.from_numpy(image).double() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    with torch.inference_mode():
        return model.double().forward_features(x.permute(2, 0, 1)[None].double())[0].permute(1, 2, 0)


@pytest.mark.parametrize("strip_bytes", [1 << 26, 1 << 14], ids=["whole", "strips"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_features_equal_the_plain_model(config: dict[str, Any], strip_bytes: int) -> None:
    model, image = build(config), pixels(70, 53)
    device = torch.device(DEVICE)
    forward = CudaForward(model, device=device, dtype=torch.float32, strip_bytes=strip_bytes)
    features = forward(torch.from_numpy(image).to(device)).cpu()
    truth = expected(model, image)
    sizes = forward.sizes(height_px=70, width_px=53)
    assert features.shape[:2] == (sizes[-1].height, sizes[-1].width)
    assert (features - truth).abs().max() <= 2e-5 * truth.abs().max()


def test_small_region() -> None:
    """Small enough to run through Triton's interpreter too; tests/ops/test_triton.py does that."""
    model, image = build({"depths": [1, 1], "dims": [16, 24], "gated": True}), pixels(20, 13)
    features = CudaEncoder("x", model, precision="fp32", device=DEVICE).encode(image)
    truth = expected(model, image).numpy()
    assert np.abs(features - truth).max() <= 2e-5 * np.abs(truth).max()


def test_bf16_is_near_and_pixels_may_be_reused_after_submit() -> None:
    model = build(CONFIGS["published s1"])
    encoder = CudaEncoder("x", model, precision="bf16", device=DEVICE)
    images = [pixels(64, 96), pixels(96, 64)]
    buffer = images[0].copy()
    first = encoder.submit(buffer)
    second = encoder.submit(images[1])
    buffer[:] = 0
    for pending, image in ((first, images[0]), (second, images[1])):
        truth = expected(model, image).numpy()
        features = pending.result()
        assert features.dtype == np.float32
        assert features.shape == truth.shape
        assert np.abs(features - truth).mean() <= 0.03 * np.abs(truth).mean()


def test_regions_that_are_too_large_or_too_small_are_refused() -> None:
    model = build(PLAIN)
    encoder = CudaEncoder("x", model, precision="fp32", device=DEVICE, memory_limit=10**9)
    with pytest.raises(MemoryLimitError, match="20000 x 20000 px needs"):
        encoder._check(height_px=20_000, width_px=20_000)
    vanilla = CudaEncoder("x", build(CONFIGS["vanilla"]), precision="fp32", device=DEVICE)
    with pytest.raises(UsageError, match="too small"):
        vanilla.encode(pixels(3, 40))


def test_ten_thousand_pixels_fit_four_gigabytes() -> None:
    model = build_backbone("vmamba_tiny_s1l8")
    assert isinstance(model, VMamba)
    forward = CudaForward(model, device=torch.device(DEVICE), dtype=torch.bfloat16)
    assert forward.peak_bytes(height_px=10_000, width_px=10_000) < 4e9


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")
def test_recorded_graphs_change_nothing() -> None:
    model = build(CONFIGS["published s1"])
    plain = CudaEncoder("x", model, precision="bf16")
    recorded = CudaEncoder("x", model, precision="bf16", graphs=True)
    for image in (pixels(64, 64), pixels(64, 96), pixels(64, 64)[::-1].copy()):
        assert np.array_equal(recorded.encode(image), plain.encode(image))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")
def test_the_memory_estimate_is_an_upper_bound() -> None:
    model = build_backbone("vmamba_tiny_s1l8")
    assert isinstance(model, VMamba)
    forward = CudaForward(model, device=torch.device("cuda"), dtype=torch.bfloat16)
    image = torch.zeros(4096, 4096, 3, dtype=torch.uint8, device="cuda")
    before = torch.cuda.memory_allocated() - image.numel()
    torch.cuda.reset_peak_memory_stats()
    forward(image)
    assert torch.cuda.max_memory_allocated() - before <= forward.peak_bytes(height_px=4096, width_px=4096)
