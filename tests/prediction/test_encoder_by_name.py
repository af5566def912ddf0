"""An encoder of timm's by name through every command: they know nothing of it. timm itself is a stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.errors import IncompatibleStoreError
from wsi_vmamba.store import open_features

NAME = "hf-hub:lab/encoder:class+mean"
STATE = {"scale": torch.tensor([2.0, 3.0, 4.0]), "cls_token": torch.zeros(1)}
LESION = (203, 117, 391, 309)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def timm(install_timm):
    module = install_timm()
    module.state = dict(STATE)
    return module


@pytest.fixture(scope="module")
def extract(cohort, painted):
    """Extract the cohort with the encoder."""
    settings = {
        "backbone": NAME, "segmenter": "all", "patch_px": painted.PATCH_PX, "region_px": 320, "min_tissue": 0.2,
        "target_mpp": painted.MPP,
    }  # fmt: skip
    return lambda out, slides="slides", **changes: wv.extract(
        cohort / slides, **{"out": out, **settings, **changes}
    )


@pytest.fixture(scope="module")
def features(extract, fakes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("by-name") / "features"
    with pytest.MonkeyPatch.context() as patch:
        module = fakes.fake_timm()
        module.state = dict(STATE)
        patch.setitem(sys.modules, "timm", module)
        assert extract(folder).ok
    return folder


def test_patches_are_those_of_any_other_backbone_and_the_file_says_what_made_them(features, cohort):
    for name in ("s00", "s07"):
        ours, null = (open_features(folder / f"{name}.zarr") for folder in (features, cohort / "features"))
        np.testing.assert_array_equal(ours.coords_l0[:], null.coords_l0[:])
        # The first three features of the null backbone are the patch's mean colour, normalised otherwise.
        mean = null.features[:, :3].astype(np.float64) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
        wanted = (mean - 0.5) / [0.25, 0.5, 1.0]
        found = ours.features[:].astype(np.float64)
        np.testing.assert_allclose(found, np.hstack([wanted * [2, 3, 4], wanted * 10]), atol=0.04)
    meta = ours.meta
    assert (meta.model, meta.encoder["timm"], meta.encoder["tokens"]) == (NAME, "9.8.7", "class+mean")
    record = json.loads((features / "extract.run.json").read_text())
    assert (record["weights"], record["weights_hash"]) == ("weights that timm found", meta.weights_hash)
    assert json.loads(record["encoder"]) == meta.encoder


def test_it_goes_on_where_it_was_and_refuses_what_was_made_otherwise_by_name(
    extract, timm, install_timm, tmp_path, cohort
):
    one = f"slides/{sorted((cohort / 'slides').iterdir())[3].name}"
    assert extract(tmp_path, one)["s03"].outcome == "done"
    before = content(tmp_path / "s03.zarr")
    assert extract(tmp_path, one)["s03"].outcome == "already done"
    (tmp_path / "s03.zarr" / "zarr.json").unlink()
    assert extract(tmp_path, one, overwrite=True)["s03"].outcome == "done"
    assert content(tmp_path / "s03.zarr") == before

    def refused(state=STATE, backbone=NAME, **changed) -> str:
        install_timm(**changed).state = dict(state)
        outcome = extract(tmp_path, one, backbone=backbone)["s03"]
        assert outcome.outcome == "failed"
        return outcome.detail

    assert 'encoder.timm: stored "9.8.7", asked "10.0"' in refused(version="10.0")
    assert "encoder.mean: stored [0.5, 0.5, 0.5], asked [0.4, 0.5, 0.5]" in refused(mean=(0.4, 0.5, 0.5))
    assert "weights_hash: stored" in refused(state={**STATE, "scale": torch.ones(3)})
    assert f'model: stored "{NAME}", asked "hf-hub:lab/encoder:mean"' in refused(
        backbone="hf-hub:lab/encoder:mean"
    )


@pytest.mark.slow
def test_train_evaluate_predict_and_pack_take_its_features(
    features, timm, train_run, make_slide, invoke, tmp_path
):
    run = train_run(tmp_path / "runs", features=features, epochs=8, learning_rate=2e-2)
    assert invoke("evaluate", "--runs", tmp_path / "runs").exit_code == 0
    assert json.loads((run.path / "evaluation" / "metrics.json").read_text())["auc"] == 1.0
    slide = make_slide(tmp_path / "new.tif", lesion=LESION)
    expected = run.predict(slide).probability
    for options, with_encoder in (((), False), (("--with-encoder",), True)):
        file = tmp_path / f"model{with_encoder}.wsivm"
        assert invoke("pack", run.path, "--out", file, *options).exit_code == 0
        assert wv.predict(file, slide).probability == expected
        assert timm.asked[-1][1] is not with_encoder  # what is in the file is not looked for on the hub
    timm.state = {**STATE, "scale": torch.ones(3)}
    with pytest.raises(IncompatibleStoreError, match="SHA-256"):
        run.predict(slide)


def test_probe_sees_each_tile_as_one_window(timm, painted, invoke, tmp_path):
    for index in range(16):
        folder = tmp_path / "tiles" / ("lesion" if index % 2 else "none")
        folder.mkdir(parents=True, exist_ok=True)
        lesion = (0, 0, 48, 48) if index % 2 else None
        Image.fromarray(painted.tissue(48, 48, seed=index, lesion=lesion)).save(folder / f"{index}.png")
    done = invoke(
        "probe", tmp_path / "tiles", "--encoder", NAME, "--out", tmp_path / "probe", "--no-few-shot",
        "--set", "bootstrap=100",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "probe" / "results.json").read_text())["encoders"][0]
    assert (found["name"], found["weights"]) == (NAME, "weights that timm found")
    assert found["confusion"]["linear"] == [[8, 0], [0, 8]]
    assert {shape[1:] for shape in timm.made[-1].seen} == {(3, 32, 32)}
