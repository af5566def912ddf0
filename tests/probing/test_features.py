"""Tiles through encoders: the numbers are those of `extract`, sizes and user's functions are handled or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.config import ProbeConfig
from wsi_vmamba.config.encoder_spec import parse_encoder
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.probing.colour_texture import encode as colour_texture
from wsi_vmamba.probing.encoders import load_encoders
from wsi_vmamba.probing.features import encode_cells, encode_files, resize_tile
from wsi_vmamba.probing.tiles import Cells


def tissue(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 220, (height_px // 16 + 1, width_px // 16 + 1, 3))
    pixels = np.kron(coarse, np.ones((16, 16, 1)))[:height_px, :width_px] + rng.normal(
        0, 8, (height_px, width_px, 3)
    )
    return pixels.clip(0, 255).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("backbone", "precision"), [("vmamba_pico", "fp32"), ("vmamba_pico", "bf16"), ("null", "auto")]
)
def test_the_features_of_a_tile_are_those_that_extract_gives(
    tmp_path: Path, backbone: str, precision: Literal["auto", "fp32", "bf16"]
) -> None:
    pixels = tissue(128, 128)
    tifffile.imwrite(
        tmp_path / "slide.tif",
        pixels,
        tile=(64, 64),
        photometric="rgb",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    mask = saved(tmp_path / "mask.png", np.full((128, 128), 255, np.uint8))
    settings = {
        "patch_px": 128,
        "region_px": 128,
        "target_mpp": 0.5,
        "mask": str(mask),
        "precision": precision,
    }
    extracted = wv.embed(tmp_path / "slide.tif", backbone=backbone, **settings)
    tile = saved(tmp_path / "tile.png", pixels)
    (encoder,) = load_encoders(ProbeConfig(encoder=[backbone], precision=precision))
    found = encode_files(encoder, [tile])
    assert extracted.features.shape[0] == 1
    np.testing.assert_array_equal(found.values, extracted.features.astype(np.float64))
    assert encoder.facts.weights_hash == extracted.meta.weights_hash
    assert encoder.facts.precision == extracted.meta.precision


@pytest.mark.parametrize("side_px", [50, 128, 736])
def test_batches_differ_from_extract_by_rounding_alone(tmp_path: Path, side_px: int) -> None:
    files = [saved(tmp_path / f"{n}.png", tissue(side_px, side_px, n)) for n in range(3)]
    (batched,) = load_encoders(ProbeConfig(encoder=["vmamba_pico"]))
    (exact,) = load_encoders(ProbeConfig(encoder=["vmamba_pico"], precision="fp32"))
    assert batched.facts.precision == "fp32"
    expected = encode_files(exact, files).values
    np.testing.assert_allclose(encode_files(batched, files).values, expected, rtol=2e-3, atol=2e-4)


def test_the_cells_of_a_picture_are_the_patches_of_a_region(tmp_path: Path) -> None:
    pixels = tissue(140, 200)
    whole = pixels[:128, :192]
    tifffile.imwrite(
        tmp_path / "slide.tif",
        whole,
        tile=(64, 64),
        photometric="rgb",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    mask = saved(tmp_path / "mask.png", np.full((128, 192), 255, np.uint8))
    extracted = wv.embed(
        tmp_path / "slide.tif", patch_px=64, region_px=192, target_mpp=0.5, mask=str(mask), precision="fp32"
    )
    picture = saved(tmp_path / "picture.png", pixels)
    places = extracted.coords_l0 // 64
    (encoder,) = load_encoders(ProbeConfig(encoder=["vmamba_pico"], precision="fp32"))
    cells = Cells(pictures=(picture,) * 6, places=places, side_px=64)
    assert len(places) == 6
    np.testing.assert_array_equal(encode_cells(encoder, cells).values, extracted.features.astype(np.float64))


def test_cells_of_other_encoders_are_cut_out(tmp_path: Path) -> None:
    pixels = tissue(70, 100)
    picture = saved(tmp_path / "picture.png", pixels)
    cells = Cells(pictures=(picture, picture), places=np.array([[2, 1], [0, 1]]), side_px=32)
    (encoder,) = load_encoders(ProbeConfig(encoder=["colour_texture"]))
    expected = colour_texture(np.stack([pixels[32:64, 64:96], pixels[32:64, :32]]))
    np.testing.assert_allclose(encode_cells(encoder, cells).values, expected, rtol=1e-6)


def test_tiles_of_different_sizes_keep_their_order(tmp_path: Path) -> None:
    sides = [64, 96, 64, 50, 96]
    files = [saved(tmp_path / f"{n}.png", tissue(side, side, n)) for n, side in enumerate(sides)]
    (encoder,) = load_encoders(ProbeConfig(encoder=["colour_texture"]))
    found = encode_files(encoder, files)
    for file, row in zip(files, found.values, strict=True):
        np.testing.assert_allclose(row, encode_files(encoder, [file]).values[0])
    assert found.sizes_px == {(64, 64): 2, (96, 96): 2, (50, 50): 1}
    assert found.cpu_ms > 0


def test_tiles_that_are_too_small_are_refused_with_the_remedy_which_works(tmp_path: Path) -> None:
    file = saved(tmp_path / "small.png", tissue(20, 40))
    (encoder,) = load_encoders(ProbeConfig(encoder=["vmamba_pico"]))
    with pytest.raises(UsageError, match=r"tiles of 40 x 20 px .* at least 32 px .*--resize 32.*@32"):
        encode_files(encoder, [file])
    for config in (ProbeConfig(encoder=["vmamba_pico@32"]), ProbeConfig(encoder=["vmamba_pico"], resize=32)):
        (encoder,) = load_encoders(config)
        found = encode_files(encoder, [file])
        assert found.sizes_px == {(64, 32): 1}
        assert found.shrunk == pytest.approx(20 / 32)


def test_resizing_averages_down_and_keeps_the_shape() -> None:
    pixels = (
        np.kron(np.arange(4).reshape(2, 2), np.ones((10, 20)))[..., None].repeat(3, axis=2).astype(np.uint8)
    )
    assert resize_tile(pixels, shorter_px=2)[..., 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert resize_tile(pixels, shorter_px=20) is pixels


def test_a_function_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def flat(tiles): return tiles.mean(axis=(0, 1, 2))\n"
        "def nan(tiles): return np.full((len(tiles), 2), np.nan)\n"
        "number = 3\n"
    )
    file = saved(tmp_path / "tile.png", tissue(32, 32))
    for name, message in (("flat", r"gave \(3,\) for 1 tiles"), ("nan", "not finite")):
        (encoder,) = load_encoders(ProbeConfig(encoder=[f"{tmp_path}/mine.py:{name}"]))
        with pytest.raises(UsageError, match=message):
            encode_files(encoder, [file])
    with pytest.raises(UsageError, match="is int; expected a function"):
        load_encoders(ProbeConfig(encoder=[f"{tmp_path}/mine.py:number"]))


def test_a_tilde_before_weights_or_a_file_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_encoder("vmamba_pico=~/w.safetensors").weights == "/home/somebody/w.safetensors"
    assert parse_encoder("~/mine.py:encode").name == "/home/somebody/mine.py:encode"


def test_encoders_are_read_from_their_names() -> None:
    plain, weights, own, sized = map(
        parse_encoder,
        ("vmamba_pico", "vmamba_tiny_s1l8=/a b/w@v:2.safetensors#ema", "dir/mine.py:encode@224", "null@64"),
    )
    assert (plain.name, plain.weights, plain.resize_px, plain.is_own) == ("vmamba_pico", "auto", None, False)
    assert (weights.name, weights.weights) == ("vmamba_tiny_s1l8", "/a b/w@v:2.safetensors#ema")
    assert (own.name, own.is_own, own.resize_px) == ("dir/mine.py:encode", True, 224)
    assert (sized.name, sized.resize_px) == ("null", 64)
    with pytest.raises(UnknownNameError, match="did you mean 'colour_texture'"):
        parse_encoder("color_texture")
    with pytest.raises(UsageError, match="'colour_texture' has no weights; leave =random out"):
        parse_encoder("colour_texture=random")
    with pytest.raises(UsageError, match="weights are missing behind '='"):
        parse_encoder("vmamba_pico=")


def test_colour_and_texture_are_the_same_for_a_turned_tile_and_not_for_another_stain() -> None:
    tile = tissue(64, 64)
    plain, turned, paler = colour_texture(np.stack([tile, np.rot90(tile), 255 - (255 - tile) // 2]))
    assert plain.shape == (102,)
    np.testing.assert_allclose(plain, turned, atol=2e-2)
    assert np.abs(plain - paler).max() > 0.2
    np.testing.assert_allclose(plain[:3], tile.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-4)
    for side in (8, 50, 300):
        assert np.isfinite(colour_texture(tissue(side, side)[None])).all()


def test_parameters_are_counted_without_the_head() -> None:
    shipped, random = load_encoders(ProbeConfig(encoder=["vmamba_pico", "vmamba_pico=random"]))
    assert shipped.facts.parameters == random.facts.parameters
    assert shipped.facts.weights_bytes is not None
    assert random.facts.weights_bytes is None
    assert shipped.facts.weights_hash != random.facts.weights_hash
