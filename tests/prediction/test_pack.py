"""A run as one file: the same predictions with nothing else there, and anything but such a file refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import wsi_vmamba as wv
from wsi_vmamba.errors import TrainingError, UsageError, WeightsError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.prediction.packed import _KEY, _digest, _read

LESION = (203, 117, 391, 309)


@pytest.fixture(scope="module")
def packed(folds, tmp_path_factory, painted):
    from typer.testing import CliRunner

    from wsi_vmamba.cli import app

    path = tmp_path_factory.mktemp("packed") / "model.wsivm"
    assert CliRunner().invoke(app, ["pack", str(folds.path), "--out", str(path)]).exit_code == 0
    return path


def test_the_file_says_what_the_run_says(tmp_path, folds, packed, make_slide):
    slide = make_slide(tmp_path / "new.tif", lesion=LESION)
    of_run, of_file = folds.predict(slide), wv.predict(packed, slide)
    assert of_file.probabilities == of_run.probabilities
    assert (of_file.threshold, of_file.likeness) == (of_run.threshold, of_run.likeness)
    assert np.array_equal(of_file.attention, of_run.attention)


@pytest.mark.slow
def test_weights_that_are_not_shipped_are_in_the_file(tmp_path, train_run, cohort, make_slide):
    """Nothing of the training is left when the file predicts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        weights = tmp_path / "own.safetensors"
        safetensors.torch.save_file(build_backbone("vmamba_pico", seed=5).state_dict(), weights)
    features = tmp_path / "features"
    settings = {
        "backbone": "vmamba_pico",
        "weights": weights,
        "segmenter": "all",
        "patch_px": 128,
        "target_mpp": 1.0,
    }
    assert wv.extract(cohort / "slides", out=features, **settings).ok
    run = train_run(tmp_path / "runs", features=features, epochs=1)
    slide = make_slide(tmp_path / "new.tif", lesion=LESION)
    expected = run.predict(slide).probability
    from wsi_vmamba.config import PackConfig
    from wsi_vmamba.prediction.packing import pack

    file = pack(PackConfig(run=str(run.path), out=str(tmp_path / "own.wsivm")))
    assert file.with_encoder
    for gone in (features, tmp_path / "runs"):
        shutil.rmtree(gone)
    weights.unlink()
    assert wv.predict(file.path, slide).probability == expected


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path, packed, cohort):
    content = packed.read_bytes()
    feature_file = cohort / "features" / "s01.zarr"
    broken = tmp_path / "broken.wsivm"
    for length in (9, 100, len(content) // 2, len(content) - 1):
        broken.write_bytes(content[:length])
        with pytest.raises((WeightsError, UsageError), match=r"broken\.wsivm"):
            wv.predict(broken, feature_file)
    for place in np.random.default_rng(0).integers(8, len(content), 40):
        changed = bytearray(content)
        changed[place] ^= 0x41
        broken.write_bytes(changed)
        with pytest.raises((WeightsError, UsageError), match=r"broken\.wsivm"):
            wv.predict(broken, feature_file)


def forged(packed, path, **changes):
    """A packed model whose header was changed and whose hash was made to fit."""
    header, tensors = _read(packed)
    del header["sha256"]
    header |= changes
    header["sha256"] = _digest(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {_KEY: json.dumps(header)}))
    return path


def test_what_a_forged_file_claims_takes_no_memory_and_is_refused(tmp_path, packed, cohort):
    (spec,) = {json.dumps(each, sort_keys=True) for each in _read(packed)[0]["members"]}
    huge = {**json.loads(spec), "hidden_dim": 10**9}
    count = len(_read(packed)[0]["members"])
    for changes, words in (
        ({"members": [huge] * count}, "not those of the model it describes"),
        ({"members": []}, "holds no model"),
        ({"classes": ["a"]}, "damaged"),
    ):
        file = forged(packed, tmp_path / "forged.wsivm", **changes)
        with pytest.raises(WeightsError, match=words):
            wv.predict(file, cohort / "features" / "s01.zarr")


def test_other_files_are_named_for_what_they_are(tmp_path, run, cohort):
    feature_file = cohort / "features" / "s01.zarr"
    (tmp_path / "p.wsivm").write_bytes(b"\x80\x04\x95 a pickle")
    (tmp_path / "z.wsivm").write_bytes(b"PK\x03\x04 a zip")
    (tmp_path / "e.wsivm").write_bytes(b"")
    for name, words in (("p", "unknown bytes 80 04"), ("z", "a zip archive"), ("e", "0 bytes")):
        with pytest.raises(UsageError, match=words):
            wv.predict(tmp_path / f"{name}.wsivm", feature_file)
    with pytest.raises(UsageError, match="a safetensors file but no packed model"):
        wv.predict(run.path / "best.safetensors", feature_file)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_record_is_named(tmp_path, folds, invoke, content):
    shutil.copytree(folds.path, tmp_path / "run")
    (tmp_path / "run" / "train.run.json").write_text(content, encoding="latin-1")
    ended = invoke("pack", tmp_path / "run", "--out", tmp_path / "x.wsivm")
    assert isinstance(ended.exception, TrainingError)
    assert "train.run.json is damaged" in str(ended.exception)
    assert not (tmp_path / "x.wsivm").exists()


def test_a_file_that_is_there_is_not_replaced_unless_asked(packed, folds, invoke):
    before = packed.read_bytes()
    refused = invoke("pack", folds.path, "--out", packed)
    assert isinstance(refused.exception, UsageError)
    assert "is there already" in str(refused.exception)
    assert packed.read_bytes() == before
