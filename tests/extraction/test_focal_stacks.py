"""extract of focal stacks: what the features are, where they are, and that nothing else is mixed in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import wsi_vmamba as wv
from wsi_vmamba.bags import FeatureSource
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import build_encoder
from wsi_vmamba.errors import ConfigError, IncompatibleStoreError, UsageError
from wsi_vmamba.extraction.focal_stacks import load_focal_encoder, stream_asked
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.pipelines import extract
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.slide.focal import open_focal_stack
from wsi_vmamba.stream import StreamStats
from wsi_vmamba.training.reference import DECISIVE, Origin
from wsi_vmamba.volume.build import build_volume

#: Two regions of 2 x 2 patches.
SETTINGS = {
    "backbone": "vmamba_pico", "precision": "fp32", "segmenter": "all", "patch_px": 64, "region_px": 128,
    "focal_planes": "all",
}  # fmt: skip


def write_stack(path: Path, depth: int) -> np.ndarray:
    """A pink, noisy z-stack (Z, 128, 256, 3) at 0.5 um."""
    noise = np.random.default_rng(0).normal((200, 120, 170), 25, (depth, 128, 256, 3))
    planes = np.clip(noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, planes, ome=True, photometric="rgb", tile=(64, 64),
        metadata={"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )  # fmt: skip
    return planes


def test_the_features_are_those_of_the_volume_at_the_patches_of_one_plane(tmp_path: Path):
    planes = write_stack(tmp_path / "a.ome.tif", 3)
    whole = wv.embed(tmp_path / "a.ome.tif", **SETTINGS)
    one = wv.embed(tmp_path / "a.ome.tif", **{**SETTINGS, "focal_planes": "one"}, scene=1)
    np.testing.assert_array_equal(whole.coords_l0, one.coords_l0)
    assert whole.meta.scene == 1
    assert whole.meta.encoder == {"focal_planes": "all"}
    assert whole.notes == ("read were 3 focal planes",)
    model = build_volume("vmamba_pico", weights=resolve_weights("vmamba_pico", "auto").path).eval()
    for (x, y), features in zip(whole.coords_l0, whole.features, strict=True):
        left = x // 128 * 128  # of its region
        images = normalise(
            torch.from_numpy(planes[:, :, left : left + 128].copy()), mean=model.mean, std=model.std
        )
        with torch.inference_mode():
            found = model.forward_features(images.transpose(0, 1)[None])[0].mean(dim=1)
        column, row = (x - left) // 32, y // 32
        expected = found[:, row : row + 2, column : column + 2].mean(dim=(1, 2))
        np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


def test_one_plane_has_the_features_of_the_backbone_itself(tmp_path: Path):
    write_stack(tmp_path / "a.ome.tif", 1)
    stack = wv.embed(tmp_path / "a.ome.tif", **SETTINGS)
    flat = wv.embed(tmp_path / "a.ome.tif", **{**SETTINGS, "focal_planes": "one"})
    np.testing.assert_allclose(stack.features, flat.features, rtol=2e-3, atol=2e-3)
    assert stack.notes == ("it has one focal plane",)


def test_a_folder_of_stacks_is_extracted_once_and_not_mixed_with_single_planes(
    tmp_path: Path, extract_config, read_outcomes, capsys
):
    for name, depth in (("a", 3), ("b", 2)):
        write_stack(tmp_path / "slides" / f"{name}.ome.tif", depth)
    config = extract_config(tmp_path / "slides", tmp_path / "out", **SETTINGS)
    assert extract.run(config)
    first = wv.open_features(tmp_path / "out" / "a.zarr").features[:]
    assert extract.run(config)
    assert {row["outcome"] for row in read_outcomes(tmp_path / "out").values()} == {"already done"}
    np.testing.assert_array_equal(wv.open_features(tmp_path / "out" / "a.zarr").features[:], first)
    plain = extract_config(tmp_path / "slides", tmp_path / "plain", **{**SETTINGS, "focal_planes": "one"})
    assert not extract.run(plain)
    assert "it is a stack of 3 focal planes" in read_outcomes(tmp_path / "plain")["a"]["detail"]
    with pytest.raises(IncompatibleStoreError, match="encoder"):
        wv.embed(
            tmp_path / "slides" / "a.ome.tif",
            out=tmp_path / "out",
            **{**SETTINGS, "focal_planes": "one"},
            scene=1,
        )


def test_a_region_of_a_stack_is_counted_once(tmp_path: Path):
    write_stack(tmp_path / "a.ome.tif", 3)
    meta = wv.embed(tmp_path / "a.ome.tif", **SETTINGS).meta
    plan, stats = RegionPlan.from_dict(meta.plan), StreamStats()
    with open_focal_stack(str(tmp_path / "a.ome.tif")) as stack:
        shapes = [
            region.pixels.shape
            for region in stream_asked(stack, plan, regions=plan.regions, prefetch=1, stats=stats)
        ]
    assert shapes == [(3, region.height_px, region.width_px, 3) for region in plan.regions]
    assert stats.regions == len(plan.regions)
    assert stats.target_px == sum(region.height_px * region.width_px for region in plan.regions)
    assert 0 < stats.decode_s <= stats.stream_s


def test_predict_reads_new_slides_as_the_training_slides_were(tmp_path: Path):
    write_stack(tmp_path / "a.ome.tif", 2)
    meta = wv.embed(tmp_path / "a.ome.tif", **SETTINGS).meta
    origin = Origin.of(meta)
    assert origin.focal_planes == "all"
    assert Origin(**origin.to_dict()) == origin
    plain = Origin.of(replace(meta, encoder={}))
    assert origin.differences(plain, DECISIVE) == ["focal_planes: expected 'all', got 'one'"]
    assert "focal_planes" not in plain.to_dict()


def test_a_model_takes_no_features_of_single_planes_for_those_of_stacks(tmp_path: Path):
    write_stack(tmp_path / "a.ome.tif", 2)
    meta = wv.embed(tmp_path / "a.ome.tif", **SETTINGS).meta
    stack, plain = FeatureSource.of(meta), FeatureSource.of(replace(meta, encoder={}))
    assert FeatureSource(**stack.to_dict()) == stack
    assert "focal_planes" not in plain.to_dict()  # what older runs wrote stays what it is
    with pytest.raises(IncompatibleStoreError, match="focal_planes: 'all' and 'one'"):
        stack.check_same(plain, where="a")


def test_what_cannot_be_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="on_bad_tile must be fail"):
        wv.embed("a.ome.tif", **SETTINGS, on_bad_tile="skip")
    with pytest.raises(UsageError, match="only VMamba backbones have a form for volumes, null is none"):
        load_focal_encoder(ExtractConfig(focal_planes="all", backbone="null"))
    encoder = build_encoder("vmamba_pico")
    with pytest.raises(UsageError, match=r"expected uint8 RGB pixels \(H, W, 3\)"):
        encoder.encode(np.zeros((2, 64, 64, 3), np.uint8))


def test_a_stack_that_does_not_fit_in_memory_is_refused_before_it_is_tried(extract_config, tmp_path: Path):
    config = extract_config(tmp_path, tmp_path, **SETTINGS, memory_limit_gb=100)
    encoder = load_focal_encoder(config)
    with pytest.raises(MemoryError, match="10000 x 10000"):
        encoder._check_planes(50, 10_000, 10_000)
