"""An encoder of timm's by name through every command: they know nothing of it. timm itself is a stand-in."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import wsi_vmamba as wv
from wsi_vmamba.errors import IncompatibleStoreError
from wsi_vmamba.store import open_features

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "hf-hub:lab/encoder:class+mean"
STATE = {"scale": torch.tensor([2.0, 3.0, 4.0]), "cls_token": torch.zeros(1)}
LESION = (203, 117, 391, 309)


@pytest.fixture
def timm(install_timm):
    module = install_timm()
    module.state = dict(STATE)
    return module


@pytest.fixture
def extracted(timm, cohort, painted, tmp_path):
    """The cohort's features with the encoder, and what it takes to make them again."""
    settings = {
        "backbone": NAME, "segmenter": "all", "patch_px": painted.PATCH_PX, "region_px": 320, "min_tissue": 0.2,
        "target_mpp": painted.MPP,
    }  # fmt: skip

    def extract(**changes):
        return wv.extract(cohort / "slides", **{"out": tmp_path / "features", **settings, **changes})

    assert extract().ok
    return extract


def test_patches_are_those_of_any_other_backbone_and_the_file_says_what_made_them(
    extracted, cohort, tmp_path
):
    for name in ("s00", "s07"):
        ours, null = (open_features(folder / "features" / f"{name}.zarr") for folder in (tmp_path, cohort))
        np.testing.assert_array_equal(ours.coords_l0[:], null.coords_l0[:])
        # The first three features of the null backbone are the patch's mean colour, normalised otherwise.
        mean = null.features[:, :3].astype(np.float64) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
        wanted = (mean - 0.5) / [0.25, 0.5, 1.0]
        found = ours.features[:].astype(np.float64)
        np.testing.assert_allclose(found, np.hstack([wanted * [2, 3, 4], wanted * 10]), atol=0.04)
    meta = ours.meta
    assert (meta.model, meta.encoder["timm"], meta.encoder["tokens"]) == (NAME, "9.8.7", "class+mean")
    record = json.loads((tmp_path / "features" / "extract.run.json").read_text())
    assert (record["weights"], record["weights_hash"]) == ("weights that timm found", meta.weights_hash)
    assert json.loads(record["encoder"]) == meta.encoder


def test_it_goes_on_where_it_was_and_refuses_what_was_made_otherwise_by_name(
    extracted, install_timm, tmp_path
):
    (tmp_path / "features" / "s03.zarr" / "zarr.json").unlink()
    again = {one.slide_id: one.outcome for one in extracted(overwrite=False).outcomes}
    assert again["s02"] == "already done"
    assert again["s03"] == "done"
    for change, words in (
        ({"version": "10.0"}, r'encoder.timm: stored "9.8.7", asked "10.0"'),
        ({"mean": (0.4, 0.5, 0.5)}, r"encoder.mean: stored \[0.5, 0.5, 0.5\], asked \[0.4, 0.5, 0.5\]"),
    ):
        install_timm(**change).state = dict(STATE)
        assert all(words.split(":")[0] in one.detail for one in extracted().outcomes)
    install_timm().state = {**STATE, "scale": torch.ones(3)}
    assert all("weights_hash" in one.detail for one in extracted().outcomes)
    assert all(
        "model: stored" in one.detail for one in extracted(backbone="hf-hub:lab/encoder:mean").outcomes
    )


def test_train_evaluate_predict_and_pack_take_its_features(
    extracted, timm, train_run, cohort, make_slide, invoke, tmp_path
):
    run = train_run(tmp_path / "runs", features=tmp_path / "features", epochs=30, learning_rate=2e-2)
    assert invoke("evaluate", "--runs", tmp_path / "runs").exit_code == 0
    assert json.loads((run.path / "evaluation" / "metrics.json").read_text())["auc"] == 1.0
    new = {
        word: make_slide(tmp_path / f"{word}.tif", lesion=where)
        for word, where in (("ill", LESION), ("well", None))
    }
    expected = {word: run.predict(slide).probability for word, slide in new.items()}
    assert expected["ill"] > 0.5 > expected["well"]
    for options, with_encoder in (((), False), (("--with-encoder",), True)):
        file = tmp_path / f"model{with_encoder}.wsivm"
        assert invoke("pack", run.path, "--out", file, *options).exit_code == 0
        assert wv.predict(file, new["ill"]).probability == expected["ill"]
        assert timm.asked[-1][1] is not with_encoder  # what is in the file is not looked for on the hub
    timm.state = {**STATE, "scale": torch.ones(3)}
    with pytest.raises(IncompatibleStoreError, match="SHA-256"):
        run.predict(new["ill"])


def test_probe_sees_each_tile_as_one_window(timm, painted, invoke, tmp_path):
    for index in range(24):
        kind = "lesion" if index % 2 else "none"
        folder = tmp_path / "tiles" / kind
        folder.mkdir(parents=True, exist_ok=True)
        lesion = (0, 0, 48, 48) if index % 2 else None
        Image.fromarray(painted.tissue(48, 48, seed=index, lesion=lesion)).save(folder / f"{index}.png")
    with (tmp_path / "tiles" / "groups.csv").open("w", newline="") as file:
        rows = ([f"{'lesion' if n % 2 else 'none'}/{n}.png", f"p{n // 4}"] for n in range(24))
        csv.writer(file).writerows([["file", "group"], *rows])
    done = invoke(
        "probe", tmp_path / "tiles", "--encoder", NAME, "--encoder", "null@64", "--out", tmp_path / "probe",
        "--set", "bootstrap=100", "--set", "few_shot=false",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "probe" / "results.json").read_text())
    first = results["encoders"][0]
    assert (first["name"], first["weights"]) == (NAME, "weights that timm found")
    assert first["linear"]["accuracy"]["value"] == 1.0 if "linear" in first else True
