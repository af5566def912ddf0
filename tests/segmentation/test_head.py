"""The UPerNet head: a band of rows is that of the whole map, and pooling keeps its extent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.errors import MemoryLimitError
from wsi_vmamba.inference import memory
from wsi_vmamba.model.build import variant
from wsi_vmamba.ops import cpu
from wsi_vmamba.segmentation.head import HeadSettings, UPerNet, resized, resized_rows
from wsi_vmamba.segmentation.maps import StripMaps, TorchMaps, kind_of_maps, resolve_precision
from wsi_vmamba.segmentation.model import Segmenter, SegmenterSpec
from wsi_vmamba.segmentation.predict import RegionSegmenter


def settings(**changes: object) -> HeadSettings:
    values = {"dims": (8, 16, 24, 32), "outputs": 3, "channels": 12, "pool_scales": (1, 2, 3), "crop_tokens": 4,
              "dropout": 0.1}  # fmt: skip
    return HeadSettings(**{**values, **changes})


def maps_of(sizes: list[tuple[int, int]], dims: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, dim, *size, generator=generator) for dim, size in zip(dims, sizes, strict=True)]


@pytest.mark.parametrize(
    "sizes", [[(64, 48), (32, 24), (16, 12), (8, 6)], [(45, 31), (23, 16), (12, 8), (6, 4)]]
)
@pytest.mark.parametrize("band", [1, 7, 16])
def test_bands_are_the_rows_of_the_whole(sizes, band):
    torch.manual_seed(0)
    head = UPerNet(settings()).eval()
    maps = maps_of(sizes, head.settings.dims)
    height = sizes[0][0]
    with torch.no_grad():
        whole = head(maps)
        pyramid = head.pyramid(maps[1:])
        bands = [
            head.rows(maps[0], pyramid, first=first, last=min(first + band, height))
            for first in range(0, height, band)
        ]
    assert whole.shape == (1, 3, *sizes[0])
    assert whole.std() > 0.01
    torch.testing.assert_close(torch.cat(bands, dim=2), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [((5, 4), (10, 8)), ((12, 8), (45, 31)), ((1, 1), (6, 5))])
def test_resized_rows_are_those_of_torch(source, target):
    x = torch.randn(2, 3, *source, generator=torch.Generator().manual_seed(1))
    whole = resized(x, *target)
    for first, last in ((0, 1), (1, target[0] - 1), (target[0] - 2, target[0])):
        rows = resized_rows(x, *target, first=first, last=last)
        torch.testing.assert_close(rows, whole[:, :, first:last], rtol=0, atol=1e-5)


def test_pooling_has_the_extent_of_a_crop_whatever_the_map():
    """Far from each other, two halves of a large map know nothing of one another; in a crop they do."""
    torch.manual_seed(0)
    head = UPerNet(settings(pool_scales=(1,))).eval()
    last = torch.randn(1, 32, 4, 16, generator=torch.Generator().manual_seed(2))
    changed = last.clone()
    changed[..., 12:] += 5
    with torch.no_grad():
        same = (head._context(last) == head._context(changed)).all(dim=1)[0].all(dim=0)
        assert same.tolist()[:8] == [True] * 8
        assert not same[12:].any()
        crop, other = last[..., :4], last[..., :4].clone()
        other[..., 3] += 5
        assert not (head._context(crop) == head._context(other)).all(dim=1).any()


def test_gradients_reach_every_parameter():
    head = UPerNet(settings(dropout=0.0)).train()
    maps = maps_of([(16, 16), (8, 8), (4, 4), (2, 2)], head.settings.dims)
    head(maps).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters()
    )


@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
@pytest.mark.parametrize("shape", [(96, 64), (75, 101)])
def test_maps_strip_by_strip_are_those_of_torch(shape):
    backbone = variant("vmamba_pico", num_classes=1, weights=None, seed=2).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    strips = StripMaps(backbone, precision="fp32")(pixels)
    expected = TorchMaps(backbone, device="cpu")(pixels)
    assert [map_.shape for map_ in strips] == [map_.shape for map_ in expected]
    for strip, torch_map in zip(strips, expected, strict=True):
        scale = float(torch_map.abs().max())
        torch.testing.assert_close(strip / scale, torch_map / scale, rtol=0, atol=1e-5)


def test_whole_maps_in_bf16_are_those_of_fp32_about():
    backbone = variant("vmamba_pico", num_classes=1, weights=None, seed=2).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    low, expected = (
        TorchMaps(backbone, device="cpu", precision=precision)(pixels) for precision in ("bf16", "fp32")
    )
    for of_low, of_full in zip(low, expected, strict=True):
        far = float((of_low.float() - of_full).abs().max() / of_full.abs().max())
        assert 1e-5 < far < 0.1  # rounded, and to nothing else


def test_whole_maps_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    backbone = variant("vmamba_pico", num_classes=1, weights=None, seed=2).eval()
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1_000_000_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**12)
    pixels = np.zeros((64, 64, 3), np.uint8)

    def maps(limit: int, beside: int) -> TorchMaps:
        return TorchMaps(
            backbone, device="cpu", memory_limit=limit, beside_bytes=lambda height_px, width_px: beside
        )

    per_token = backbone.config.d_inner(0) * backbone.config.d_state * 4 * 56
    needed = 16 * 16 * per_token
    assert len(maps(1_000_000_000 + needed + 5, 5)(pixels)) == 4
    monkeypatch.setattr(backbone, "forward_stages", None)
    for limit, beside in ((needed - 1, 0), (needed + 4, 5)):
        with pytest.raises(
            MemoryLimitError, match=r"a region of 64 x 64 px needs .* higher --memory-limit-gb"
        ):
            maps(1_000_000_000 + limit, beside)(pixels)


@pytest.mark.parametrize(
    ("device", "kernels", "native", "precision", "maps"),
    [
        ("cpu", True, True, "bf16", "strips"),
        ("cpu", True, False, "fp32", "strips"),
        ("cpu", False, True, "fp32", "whole"),
        ("cuda:0", True, False, "bf16", "whole"),
    ],
)
def test_what_auto_stands_for(monkeypatch, device, kernels, native, precision, maps):
    monkeypatch.setattr(cpu, "available", kernels)
    monkeypatch.setattr("wsi_vmamba.segmentation.maps.multiplies_bf16", lambda: native)
    assert resolve_precision("auto", device=device) == precision
    assert kind_of_maps(device) == maps
    assert resolve_precision("fp32", device=device) == "fp32"


def test_without_kernels_a_segmenter_obeys_precision_and_memory_limit(monkeypatch):
    monkeypatch.setattr(cpu, "available", False)
    spec = SegmenterSpec(
        backbone="vmamba_pico", classes=("a", "b"), outside="unknown", target_mpp=None, crop_px=64, channels=8,
        pool_scales=(1,),
    )  # fmt: skip
    model = Segmenter(spec, variant("vmamba_pico", num_classes=1, weights=None, seed=2))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    full, low = (
        next(RegionSegmenter(model, device="cpu", precision=precision).bands(pixels))[1]
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(full - low).max() < 0.1
    with pytest.raises(MemoryLimitError, match="a region of 64 x 64 px needs"):
        next(RegionSegmenter(model, device="cpu", memory_limit=1).bands(pixels))
