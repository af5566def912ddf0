"""The export command on real feature files, with and without a trained run."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsi_vmamba.config import ExportConfig, ExtractConfig, TrainConfig
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pipelines import export, extract, train
from wsi_vmamba.store import open_features

SPEC = CohortSpec(slides=4, seed=3, width_px=(768, 768), height_px=(640, 640))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for index in range(4):
        generate_slide(SPEC, index, folder / "slides")
    values = {"slides": str(folder / "slides"), "out": str(folder / "features"), "backbone": "null"}
    assert extract.run(ExtractConfig.model_validate({**values, "patch_px": 64})) is True
    return folder


def run(work: Path, out: Path, **changes: object) -> bool:
    values = {"features": str(work / "features"), "out": str(out), **changes}
    return export.run(ExportConfig.model_validate(values))


def test_a_folder_and_a_single_file(work: Path, tmp_path: Path, capsys):
    assert run(work, tmp_path / "all", format="stamp") is True
    assert sorted(p.name for p in (tmp_path / "all").glob("*.h5")) == [f"slide_00{i}.h5" for i in range(4)]
    one = str(work / "features" / "slide_002.zarr")
    assert run(work, tmp_path / "one", format="stamp", features=one) is True
    (only,) = (tmp_path / "one").glob("*.h5")
    assert only.read_bytes() == (tmp_path / "all" / "slide_002.h5").read_bytes()
    assert "4 of 4 slides as stamp" in capsys.readouterr().out
    assert run(work, tmp_path / "all", format="stamp") is True
    assert "4 files were there already, the same to the byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "all" / "export.run.json").read_text())["slides"] == 4


def test_a_damaged_file_is_named_and_the_others_are_exported(work: Path, tmp_path: Path, capsys):
    shutil.copytree(work / "features", tmp_path / "features")
    chunk = next(
        p for p in (tmp_path / "features" / "slide_001.zarr" / "features" / "c").rglob("*") if p.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-7])
    assert run(tmp_path, tmp_path / "out", format="clam") is False
    assert sorted(p.stem for p in (tmp_path / "out" / "pt_files").iterdir()) == [
        "slide_000",
        "slide_002",
        "slide_003",
    ]
    assert "slide_001" in capsys.readouterr().out


def test_other_scores_are_not_mixed_in_and_leftovers_of_a_killed_run_go(work: Path, tmp_path: Path, capsys):
    assert run(work, tmp_path, format="stamp") is True
    dead = subprocess.Popen(["true"])
    dead.wait()
    leftover = tmp_path / f".slide_000.h5.partial-{socket.gethostname()}-{dead.pid}"
    leftover.write_bytes(b"half")
    (tmp_path / "slide_001.h5").write_bytes(b"older")
    assert run(work, tmp_path, format="stamp") is False
    assert "slide_001.h5 is there and is not what would be written now" in capsys.readouterr().out
    assert (tmp_path / "slide_001.h5").read_bytes() == b"older"
    assert not leftover.exists()
    assert run(work, tmp_path, format="stamp", overwrite=True) is True


def test_nothing_to_export_is_said(tmp_path: Path):
    with pytest.raises(UsageError, match="no feature files"):
        run(tmp_path, tmp_path / "out")


def test_a_run_adds_its_probability_and_attention(work: Path, tmp_path: Path):
    manifest = work / "slides.csv"
    rows = [f"slide_00{i},{i % 2},p{i},{split}" for i, split in enumerate(["train"] * 2 + ["validation"] * 2)]
    manifest.write_text("slide_id,label,patient_id,split\n" + "\n".join(rows) + "\n")
    settings = {
        "dataset": "csv", "manifest": str(manifest), "features": str(work / "features"), "epochs": 2,
        "runs": str(tmp_path / "runs"), "name": "r", "warmup_epochs": 0,
    }  # fmt: skip
    assert train.run(TrainConfig.model_validate(settings))
    assert run(work, tmp_path / "out", format="geojson", run=str(tmp_path / "runs" / "r")) is True
    file = open_features(work / "features" / "slide_003.zarr")
    *tiles, slide = json.loads((tmp_path / "out" / "slide_003.geojson").read_text())["features"]
    values = [tile["properties"]["measurements"]["attention / mean"] for tile in tiles]
    assert len(values) == file.n_patches
    assert np.mean(values) == pytest.approx(1.0, rel=1e-6)
    assert len(set(values)) > 1
    assert 0 < slide["properties"]["measurements"]["probability"] < 1
    corners = np.array([shapely.geometry.shape(tile["geometry"]).bounds[:2] for tile in tiles])
    np.testing.assert_allclose(corners, file.coords_l0, atol=0.51)
