from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.config import ExtractConfig, ShowConfig
from wsi_vmamba.pipelines import extract, info, show
from wsi_vmamba.store import open_features


@pytest.fixture
def two_scenes(tmp_path: Path) -> Path:
    """An OME-TIFF of a 0.5 um scene of 512 x 384 px, dark, and one of 128 x 128 px, light."""
    path = tmp_path / "slides" / "two.ome.tif"
    path.parent.mkdir()
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, (height, width), grey in (("dark", (384, 512), 60), ("light", (128, 128), 190)):
            tif.write(
                np.full((height, width, 3), grey, np.uint8), photometric="rgb", tile=(64, 64),
                metadata={"Name": name, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            )  # fmt: skip
    return path


def test_the_scene_is_named_chosen_and_recorded(
    two_scenes, tmp_path, extract_config, read_outcomes, capsys, monkeypatch
):
    whole = {"slides": two_scenes.parent, "out": tmp_path / "out"}
    assert extract.run(extract_config(**whole)) is True
    stored = open_features(tmp_path / "out" / "two.zarr")
    assert (stored.meta.scene, stored.n_patches) == (0, 48)
    note = "read was scene 0 'dark' (512 x 384 px at 0.5 um); the file also holds scene 1 'light'"
    assert note in capsys.readouterr().out
    assert note in read_outcomes(tmp_path / "out")["two"]["detail"]

    # Features of one scene are never taken for those of another.
    assert extract.run(extract_config(**whole, scene=1)) is False
    assert "scene: stored 0, asked 1" in read_outcomes(tmp_path / "out")["two"]["detail"]
    assert extract.run(extract_config(**whole, scene=0)) is True

    other = {"slides": two_scenes.parent, "out": tmp_path / "other"}
    capsys.readouterr()
    assert extract.run(extract_config(**other, scene=1)) is True
    assert "scene" not in capsys.readouterr().err
    light = open_features(tmp_path / "other" / "two.zarr")
    assert (light.meta.scene, light.n_patches, light.meta.plan["width_l0"]) == (1, 4, 128)
    # What is drawn later is drawn over that scene.
    opened = []
    real = show.open_slide
    monkeypatch.setattr(
        show, "open_slide", lambda *args, **kw: opened.append(kw["scene"]) or real(*args, **kw)
    )
    assert show.run(ShowConfig(features=str(tmp_path / "other" / "two.zarr"), out=str(tmp_path))) is True
    assert opened == [1]


def test_a_scene_that_is_not_there_fails_that_slide_with_its_remedy(
    two_scenes, tmp_path, extract_config, read_outcomes, write_tiny_slide
):
    write_tiny_slide(two_scenes.parent / "one.tif", 0)
    assert extract.run(extract_config(two_scenes.parent, tmp_path / "out", scene=1)) is False
    rows = read_outcomes(tmp_path / "out")
    assert (rows["one"]["outcome"], rows["two"]["outcome"]) == ("failed", "done")
    assert "there is no scene 1; the file holds scene 0 (" in rows["one"]["detail"]
    assert rows["one"]["remedy"].startswith("--scene N")


def test_info_lists_the_scenes(two_scenes, capsys):
    assert info.run(ExtractConfig(slides=str(two_scenes), segmenter="all", patch_px=64)) is True
    printed = capsys.readouterr().out
    assert (
        "scene        0 'dark' (512 x 384 px at 0.5 um); the file also holds scene 1 'light' (128 x 128"
        in printed
    )
    assert info.run(ExtractConfig(slides=str(two_scenes), segmenter="all", patch_px=64, scene=1)) is True
    assert "128 x 128 px" in capsys.readouterr().out
