"""A probe from tiles to files, through encoders whose features are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app
from wsi_vmamba.errors import ConfigError, DatasetError, UsageError

#: An encoder that reads the tile's class from its first pixel and its number from the second.
TELLS = """
import numpy as np

def class_of(tiles):
    return np.stack([tiles[:, 0, 0, 0], tiles[:, 0, 1, 0]], axis=1).astype(float)

def number_of(tiles):
    return tiles[:, 0, 1, :1].astype(float)
"""


def write_tiles(folder: Path, *, groups: int = 4, each: int = 5, side_px: int = 64) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for label, name in enumerate(("benign", "tumour")):
        (folder / name).mkdir(parents=True)
        for number in range(groups * each):
            pixels = rng.integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
            pixels[0, 0], pixels[0, 1] = 100 * label, 3 * number
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
            lines.append((f"{name}/{number:03}.png", f"slide {number % groups}"))
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "group"), *lines])
    return folder


@pytest.fixture
def tells(tmp_path: Path) -> str:
    (tmp_path / "tells.py").write_text(TELLS)
    return str(tmp_path / "tells.py")


@pytest.mark.slow
def test_the_command_tells_an_encoder_that_knows_from_one_that_does_not(tmp_path: Path, tells: str) -> None:
    tiles, out = write_tiles(tmp_path / "tiles"), tmp_path / "out"
    options = ["--encoder", f"{tells}:number_of", "--encoder", f"{tells}:class_of", "--out", str(out)]
    result = CliRunner().invoke(app, ["probe", str(tiles), *options])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "results.json").read_text())
    blind, seeing = found["encoders"]
    assert (blind["label"], seeing["label"]) == ("tells.py:number_of", "tells.py:class_of")
    assert seeing["metrics"]["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert seeing["metrics"]["neighbour_accuracy"]["value"] == 1.0
    assert seeing["few_shot"][0]["auc"] > 0.9
    assert blind["metrics"]["auc"]["value"] < 0.6
    assert seeing["minus_first"]["auc"]["value"] == pytest.approx(1 - blind["metrics"]["auc"]["value"])
    assert "tells.py:class_of\t1.000 (1.000–1.000)" in result.output
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 80
    of_seeing = [row for row in rows if row["encoder"] == "tells.py:class_of"]
    assert all(row["predicted"] == row["class"] for row in of_seeing)
    assert all(row["fold"] == row["group"] for row in rows)


def test_another_site_is_judged_by_what_was_learned_on_the_first(tmp_path: Path, tells: str) -> None:
    here, there = write_tiles(tmp_path / "here"), write_tiles(tmp_path / "there", each=3)
    with pytest.raises(DatasetError, match=r"both in .*: slide 0, slide 1"):
        wv.probe(here, test=there, encoder=f"{tells}:class_of")
    table = there / "groups.csv"
    table.write_text(table.read_text().replace("slide ", "other "))
    found = wv.probe(here, test=there, encoder=f"{tells}:class_of", few_shot=False)
    assert len(found.task.judged) == 24
    assert found.encoders[0].auc.value == 1.0


def test_errors_name_what_is_wrong(tmp_path: Path, tells: str) -> None:
    tiles = write_tiles(tmp_path / "tiles")
    with pytest.raises(ConfigError, match="did you mean 'vmamba_pico'"):
        wv.probe(tiles, encoder="vmamba_pica")
    with pytest.raises(UsageError, match=r"cannot be loaded .*FILE.py:FUNCTION"):
        wv.probe(tiles, encoder=f"{tells}:nothing")
    (tiles / "tumour" / "000.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"tumour/000.png: the tile cannot be decoded"):
        wv.probe(tiles, encoder=f"{tells}:class_of")


@pytest.mark.slow
def test_pictures_with_masks_are_judged_cell_by_cell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        mask = np.kron(rng.permuted([[0, 1, 2], [2, 1, 0]], axis=1), np.ones((64, 64))).astype(np.uint8)
        pixels = 60 + 60 * mask[..., None] + rng.integers(0, 20, (128, 192, 3), dtype=np.uint8)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.csv").write_text("value,class\n1,stroma\n2,tumour\n")
    places = [f"--{name}={tmp_path / name}" for name in ("images", "masks")]
    options = [f"--classes={tmp_path / 'classes.csv'}", f"--out={tmp_path / 'out'}", "--no-few-shot"]
    encoders = ["--encoder", "null", "--encoder", "vmamba_pico@128", "--encoder", "colour_texture"]
    result = CliRunner().invoke(app, ["probe", *places, *options, *encoders])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["tiles_by_class"] == {"stroma": 6, "tumour": 6}
    assert found["groups"] == 3
    assert [one["metrics"]["auc"]["value"] for one in found["encoders"]] == [1.0, 1.0, 1.0]
    assert found["encoders"][1]["tile_sizes_px"] == [{"width": 128, "height": 128, "tiles": 12}]
    assert any("no groups for" in note for note in found["notes"])
    alone = CliRunner().invoke(app, ["probe", "--images", "i"])
    assert "pictures need all of --images DIR, --masks DIR and --classes FILE" in str(alone.exception)
