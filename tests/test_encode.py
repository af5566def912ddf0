"""Encoders and pooling: values per patch, choices that are resolved and recorded, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsi_vmamba import encode
from wsi_vmamba.encode import (
    BandEncoder,
    StripEncoder,
    WholeMapEncoder,
    build_encoder,
    encode_each,
    pool_patches,
)
from wsi_vmamba.errors import MemoryLimitError, UnknownNameError, UsageError
from wsi_vmamba.inference.memory import resident_bytes
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import FOLDER, SHIPPED
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.ops import cpu
from wsi_vmamba.regions import Region

needs_kernels = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")


def _pixels(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def _region(patches: list[tuple[int, int]], *, x_px: int, y_px: int, width_px: int, height_px: int) -> Region:
    return Region(
        index=0,
        x_px=x_px,
        y_px=y_px,
        width_px=width_px,
        height_px=height_px,
        patches=np.array(patches, dtype=np.int64),
    )


def test_pooling_averages_the_tokens_of_each_patch_and_no_other() -> None:
    # Patches of 64 px are 2 x 2 tokens of 32 px; the region starts at patch (5, 7) of the slide.
    region = _region([(7, 7), (5, 8), (6, 8)], x_px=320, y_px=448, width_px=192, height_px=128)
    row, column = np.mgrid[0:4, 0:6].astype(np.float32)
    pooled = pool_patches(np.stack([column, row], axis=-1), region, patch_px=64, stride_px=32)
    np.testing.assert_array_equal(pooled, [[4.5, 0.5], [0.5, 2.5], [2.5, 2.5]])
    assert pooled.dtype == np.float32


def test_pooling_refuses_what_does_not_match() -> None:
    region = _region([(0, 0)], x_px=0, y_px=0, width_px=64, height_px=64)
    with pytest.raises(UsageError, match="multiple of the encoder's stride of 32 px, got 100; try 96"):
        pool_patches(np.zeros((2, 2, 1), np.float32), region, patch_px=100, stride_px=32)
    with pytest.raises(UsageError, match="map of 2 x 3 tokens"):
        pool_patches(np.zeros((3, 2, 1), np.float32), region, patch_px=64, stride_px=32)
    with pytest.raises(UsageError, match="whole patches of 128 px"):
        pool_patches(np.zeros((2, 2, 1), np.float32), region, patch_px=128, stride_px=32)


def test_bands_do_not_change_the_squares_of_the_null_backbone() -> None:
    pixels = _pixels(1100, 70)
    backbone = build_backbone("null")
    bands, whole = (
        kind("null", backbone, precision="fp32", device="cpu").encode(pixels)
        for kind in (BandEncoder, WholeMapEncoder)
    )
    assert bands.shape == (35, 3, 6)
    np.testing.assert_allclose(bands, whole, atol=1e-6)
    mean = pixels[1088:1100, 64:70].reshape(-1, 3).mean(0) / 255
    expected = (mean - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(bands[34, 2, :3], expected, atol=1e-5)


@needs_kernels
def test_cpu_takes_strips_and_records_what_auto_became() -> None:
    encoder = build_encoder("vmamba_pico", weights="random", device="cpu")
    assert isinstance(encoder, StripEncoder)
    assert encoder.precision in ("fp32", "bf16")
    assert (encoder.name, encoder.device, encoder.dim, encoder.stride_px) == ("vmamba_pico", "cpu", 256, 32)
    assert encoder.weights_hash == weights_hash(build_backbone("vmamba_pico", seed=0))


@needs_kernels
def test_without_kernels_the_plain_model_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = _pixels(64, 96)
    strips = build_encoder("vmamba_pico", weights="random", precision="fp32", device="cpu").encode(pixels)
    monkeypatch.setattr(encode.cpu, "available", False)
    plain = build_encoder("vmamba_pico", weights="random", device="cpu")
    assert isinstance(plain, WholeMapEncoder)
    assert plain.precision == "fp32"
    np.testing.assert_allclose(plain.encode(pixels), strips, atol=1e-5 * np.abs(strips).max())


def test_seed_and_weights_decide_the_features(tmp_path: Path) -> None:
    pixels = _pixels(64, 64)
    save_file(build_backbone("vmamba_pico", seed=4).state_dict(), tmp_path / "w.safetensors")
    drawn = build_encoder("vmamba_pico", weights="random", seed=4, precision="fp32")
    loaded = build_encoder("vmamba_pico", weights=tmp_path / "w.safetensors", precision="fp32")
    other = build_encoder("vmamba_pico", weights="random", seed=5)
    assert drawn.weights_hash == loaded.weights_hash != other.weights_hash
    np.testing.assert_array_equal(drawn.encode(pixels), loaded.encode(pixels))


def test_weights_are_the_shipped_ones_unless_random_ones_are_asked_for() -> None:
    shipped = build_backbone("vmamba_pico", weights=FOLDER / SHIPPED["vmamba_pico"])
    assert build_encoder("vmamba_pico").weights_hash == weights_hash(shipped)
    assert build_encoder("vmamba_pico", weights="random").weights_hash != weights_hash(shipped)
    with pytest.raises(UsageError, match="no weights are shipped with vmamba_tiny_s1l8; give --weights FILE"):
        build_encoder("vmamba_tiny_s1l8")


@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
def test_memory_limit_is_honoured(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode.cpu, "available", kernels)
    encoder = build_encoder("vmamba_pico", device="cpu", memory_limit=resident_bytes() + 200 * 2**20)
    assert encoder.encode(_pixels(64, 64)).shape == (2, 2, 256)
    with pytest.raises(MemoryLimitError, match=r"--region-px \d+"):
        encoder.encode(np.broadcast_to(np.uint8(0), (9000, 9000, 3)))


def test_the_weights_of_a_backbone_are_those_it_is_shipped_with_unless_random_is_said() -> None:
    shipped = build_backbone("vmamba_pico", weights=FOLDER / SHIPPED["vmamba_pico"])
    random = build_backbone("vmamba_pico", seed=3)
    assert build_encoder("vmamba_pico").weights_hash == weights_hash(shipped)
    assert build_encoder("vmamba_pico", weights="random", seed=3).weights_hash == weights_hash(random)
    with pytest.raises(UsageError, match=r"no weights are shipped with vmamba_tiny_s1l8.*--weights random"):
        build_encoder("vmamba_tiny_s1l8")
    with pytest.raises(UsageError, match=r"'auto' .shipped., 'random', a name or a file, got None"):
        build_encoder("vmamba_pico", weights=None)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(
        UnknownNameError, match="choose from hf-hub:ORG/NAME, null, onnx, timm:NAME, timm_resnet152"
    ):
        build_encoder("resnet")
    with pytest.raises(UsageError, match="choose from auto, bf16, fp32"):
        build_encoder("null", precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="choose from auto, cpu, cuda"):
        build_encoder("null", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            build_encoder("null", device="cuda")


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
@pytest.mark.parametrize("name", ["null", "vmamba_pico"])
def test_wrong_pixels_are_refused(bad: np.ndarray, name: str) -> None:
    with pytest.raises(UsageError, match="expected uint8 RGB pixels"):
        build_encoder(name).encode(bad)


class _Ahead:
    """An encoder that computes only when asked, and remembers in which order things happened."""

    def __init__(self, ahead):
        self.ahead = ahead
        self.log = []

    def submit(self, pixels):
        number = int(pixels[0, 0, 0])
        self.log.append(f"submit {number}")
        encoder = self

        class Later:
            def result(self):
                encoder.log.append(f"result {number}")
                return np.full((1, 1, 1), number, dtype=np.float32)

        return Later()


@pytest.mark.parametrize(
    ("ahead", "order"),
    [
        (0, ["submit 0", "result 0", "submit 1", "result 1", "submit 2", "result 2"]),
        (1, ["submit 0", "submit 1", "result 0", "submit 2", "result 1", "result 2"]),
    ],
)
def test_regions_come_in_order_with_as_many_under_way_as_the_encoder_takes(ahead, order):
    encoder = _Ahead(ahead)
    regions = ((f"region {i}", np.full((2, 2, 3), i, dtype=np.uint8)) for i in range(3))
    found = [(key, float(features[0, 0, 0])) for key, features in encode_each(encoder, regions)]
    assert found == [("region 0", 0.0), ("region 1", 1.0), ("region 2", 2.0)]
    assert encoder.log == order


def test_each_backbone_is_given_pixels_normalised_with_its_own_mean_and_std():
    class Itself(nn.Module):
        dim, stride_px, mean, std = 3, 1, (0.5, 0.25, 0.125), (0.5, 0.25, 0.125)

        def forward_features(self, x):
            return x

    pixels = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    found = WholeMapEncoder("itself", Itself(), precision="fp32", device="cpu").encode(pixels)
    np.testing.assert_array_equal(found, [[[-1, -1, -1], [1, 3, 7]]])
