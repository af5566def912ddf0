"""The analyse command: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.analysis import ANALYSES
from wsi_vmamba.analysis.directions_of_scan import SCANS
from wsi_vmamba.cli import app
from wsi_vmamba.errors import ConfigError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


#: Options that make each analysis quick.
QUICK = {
    "erf": ("--region-px", "64", "--windows", "1", "--projections", "1"),
    "activation": ("--region-px", "64", "--at", "70", "20"),
    "directions": ("--region-px", "64", "--windows", "1"),
    "scan-order": ("--region-px", "64", "--windows", "1", "--wavelength-px", "16", "--set", "angles=2",
                   "--set", "phases=2"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_the_command_prints_tables_and_writes_every_number(name: str, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["analyse", name, str(picture), *QUICK[name], "--out", str(out)])
    assert result.exit_code == 0, result.output
    with Image.open(out / f"{name}.png") as figure:
        assert figure.format == "PNG"
        assert np.asarray(figure.convert("L")).std() > 5
    numbers = json.loads((out / f"{name}.json").read_text())
    assert numbers["network"]["weights"] == "shipped weights, trained on open slides and generated images"
    assert numbers["settings"]["seed"] == 0
    assert numbers["network"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    for table in out.glob("*.csv"):
        rows = list(csv.reader(table.read_text().splitlines()))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
        assert table.name in result.output
    assert (out / "analyse.run.json").exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_read() -> None:
    for device, words in (("cuda:77", "torch sees"), ("gpu", "unknown device 'gpu'")):
        result = CliRunner().invoke(app, ["analyse", "erf", "/no/picture.png", "--device", device])
        assert result.exit_code != 0
        assert words in str(result.exception)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ANALYSES)
def test_a_gpu_finds_what_a_cpu_finds(name: str, picture: Path) -> None:
    settings = {
        "erf": {"projections": 1},
        "activation": {"at": [70, 20]},
        "directions": {},
        "scan-order": {"wavelength_px": [16.0], "angles": 2, "phases": 2},
    }[name]
    if name != "activation":
        settings["windows"] = 1
    on_cpu, on_gpu = (
        wv.analyse(name, picture, region_px=[64], device=device, **settings) for device in ("cpu", "cuda")
    )
    for key, values in on_cpu.maps().items():
        np.testing.assert_allclose(
            on_gpu.maps()[key], values, rtol=0.02, atol=1e-5 + 0.01 * np.abs(values).max()
        )


def test_maps_and_tables_hold_what_python_is_given(picture: Path, tmp_path: Path) -> None:
    found = wv.analyse("erf", picture, region_px=[64], windows=1, projections=1, out=tmp_path / "out")
    kept = np.load(tmp_path / "out" / "erf.64px.npy")
    np.testing.assert_allclose(kept, found.regions[0].density, rtol=1e-6)
    assert kept.sum() == pytest.approx(1, rel=1e-4)
    (row,) = csv.DictReader((tmp_path / "out" / "erf.regions.csv").read_text().splitlines())
    assert float(row["r50_px"]) == found.regions[0].figures()["r50_px"]


def test_activation_lies_where_it_was_asked_for(picture: Path) -> None:
    found = wv.analyse("activation", str(picture), region_px=[64], at=(70, 20), block="layers.0.blocks.0")
    # The square starts at column 38 and row 0; tokens of 4 px.
    assert found.window.corner_l0 == (38, 0)
    assert found.token == (20 // 4, (70 - 38) // 4)
    assert found.rebuilt_error < 1e-4
    assert [one["scan"] for one in found.figures()] == [*SCANS, "all four"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("erf", "--at", "3", "4"), "at is of `analyse activation`, not of erf"),
        (("scan-order", "--tiles", "t"), "tiles is of `analyse directions`"),
        (("activation", "--region-px", "64", "--region-px", "96"), "activation takes one region_px"),
        (("activation", "--at", "3", "4"), "at is a pixel of one picture or slide"),
        (("directions", "--groups", "g.csv"), "groups are those of --tiles DIR"),
        (("erv",), "did you mean 'erf'"),
        (("erf", "--backbone", "null"), "null is no VMamba"),
        (("activation", "--block", "layers.9"), "unknown block 'layers.9'"),
        (("erf", "--memory-limit-gb", "0.001"), "gradients of a square of 512 x 512 px need"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    arguments: tuple[str, ...], told: str, monkeypatch, capsys
) -> None:
    from wsi_vmamba.cli import main

    monkeypatch.setattr("sys.argv", ["wsi-vmamba", "analyse", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (1, 2)
    assert told in capsys.readouterr().err


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="angels"):
        wv.analyse("scan-order", angels=3)
