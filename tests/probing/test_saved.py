"""A saved probe: what it predicts, what it refuses, and what it shows of a slide."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app
from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.probing.results import Probe

PINK, BLUE = (220, 150, 190), (110, 80, 160)


def stain(rng: np.random.Generator, colour: tuple[int, int, int], side_px: int = 64) -> np.ndarray:
    return (np.array(colour) + rng.normal(0, 12, (side_px, side_px, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    lines = ["file,group"]
    for name, colour in (("lymphoid", BLUE), ("stroma", PINK)):
        (folder / name).mkdir()
        for number in range(12):
            Image.fromarray(stain(rng, colour)).save(folder / name / f"{number}.png")
            lines.append(f"{name}/{number}.png,slide {number % 3}")
    (folder / "groups.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def probe_file(tiles: Path) -> Path:
    file = tiles / "probe.safetensors"
    options = ["--encoder", "null", "--mpp", "0.5", "--save", str(file), "--no-few-shot"]
    result = CliRunner().invoke(app, ["probe", str(tiles), *options])
    assert result.exit_code == 0, result.output
    return file


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Left half blue, right half pink."""
    folder, rng = tmp_path_factory.mktemp("slide"), np.random.default_rng(1)
    pixels = np.hstack([np.vstack([stain(rng, colour, 128)] * 2) for colour in (BLUE, PINK)])
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "two.tif", pixels, tile=(64, 64), photometric="rgb", **scale)
    return folder / "two.tif"


def test_a_probe_comes_back_from_its_file_as_it_was(tiles: Path, tmp_path: Path) -> None:
    found = wv.probe(tiles, encoder="null", mpp=0.5, resize=32, few_shot=False)
    assert isinstance(found, Probe)
    found.save(tmp_path / "p.safetensors")
    read, fitted = wv.load_probe(tmp_path / "p.safetensors"), found.fitted()
    features = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_array_equal(read.predict(features), fitted.predict(features))
    assert read.facts == fitted.facts
    assert read.classes == ("lymphoid", "stroma")
    assert (read.facts.mpp, read.facts.tile_px, read.facts.groups) == (1.0, (32, 32), 3)
    values = found.encoders[0].features.values
    assert (read.predict(values).argmax(axis=1) == found.task.labels).all()
    with pytest.raises(UsageError, match=r"features of width 6 \(of null\), got \(3, 7\)"):
        read.predict(np.zeros((3, 7)))
    assert read.predict(np.zeros((2, 3, 6))).shape == (2, 3, 2)


def test_show_draws_what_a_probe_says_of_a_slide(slide: Path, probe_file: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((256, 256), 255, np.uint8)).save(mask)
    wv.embed(slide, out=tmp_path, backbone="null", patch_px=64, mask=str(mask))
    result = CliRunner().invoke(app, ["show", str(tmp_path / "two.zarr"), "--probe", str(probe_file)])
    assert result.exit_code == 0, result.output
    assert "likeliest class: lymphoid 8, stroma 8" in result.output
    rows = list(csv.DictReader((tmp_path / "two.probe.csv").read_text().splitlines()))
    assert len(rows) == 16
    for row in rows:
        assert (float(row["p_lymphoid"]) > 0.8) == (int(row["x_l0"]) < 128)
        assert float(row["p_lymphoid"]) + float(row["p_stroma"]) == pytest.approx(1, abs=1e-5)
    for name in ("lymphoid", "stroma"):
        assert (tmp_path / f"two.probe.{name}.png").is_file()


def test_a_probe_refuses_features_of_another_encoder_and_says_what_else_differs(
    slide: Path, probe_file: Path, tmp_path: Path
) -> None:
    probe = wv.load_probe(probe_file)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((256, 256), 255, np.uint8)).save(mask)
    other = wv.embed(slide, patch_px=64, mask=str(mask))
    with pytest.raises(UsageError, match=r"for features of null .* are of vmamba_pico"):
        probe.check(other.meta)
    same = wv.embed(slide, backbone="null", patch_px=64, mask=str(mask))
    assert probe.check(same.meta) == []
    coarse = wv.embed(slide, backbone="null", patch_px=256, target_mpp=1.0, region_px=256, mask=str(mask))
    assert probe.check(coarse.meta) == [
        "the probe's tiles had 0.5 um/px, these patches 1",
        "the probe's tiles had 64 px, these patches 256",
    ]


def test_files_that_are_no_probe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no probe at .*--save"):
        wv.load_probe(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("a probe")
    with pytest.raises(WeightsError, match="cannot be read as a probe"):
        wv.load_probe(tmp_path / "text.safetensors")
    save_file({"mean": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is no probe"):
        wv.load_probe(tmp_path / "other.safetensors")


def test_only_one_encoder_can_be_saved(tiles: Path) -> None:
    options = ["--encoder", "null", "--encoder", "colour_texture", "--save", "p.safetensors"]
    result = CliRunner().invoke(app, ["probe", str(tiles), *options])
    assert result.exit_code != 0
    assert "--save keeps the probe of one encoder" in str(result.exception)
