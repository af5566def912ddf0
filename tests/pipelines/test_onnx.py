"""`wsi-vmamba onnx`: the shipped network as a file, and features extracted with it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app
from wsi_vmamba.errors import UsageError

WHY = "onnx and onnxruntime are not installed: pip install 'wsi-vmamba[onnx]'"
pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxruntime", reason=WHY)


def test_the_command_writes_a_file_that_extracts_the_same_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["onnx"])
    assert done.exit_code == 0
    said = done.output
    assert "vmamba_pico.onnx" in said
    assert "to features and logits" in said
    assert said.count("8 of 8") == 2
    picture = np.random.default_rng(0).integers(0, 200, (512, 512, 3), dtype=np.uint8)
    settings = {"mpp_override": 0.5, "device": "cpu", "segmenter": "all"}
    tifffile.imwrite("slide.tif", picture, tile=(256, 256), photometric="rgb")
    expected = wv.embed("slide.tif", precision="fp32", **settings).features
    found = wv.embed("slide.tif", backbone="onnx", weights="vmamba_pico.onnx", **settings).features
    assert expected.shape == (4, 256)
    np.testing.assert_allclose(found, expected, atol=4e-3)  # features are kept in float16
    with pytest.raises(UsageError, match=r"vmamba_pico\.onnx is there already; give --overwrite"):
        wv.export_onnx()


def test_what_is_no_vmamba_or_needs_what_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="only VMambas are written as ONNX, and null is none"):
        wv.export_onnx(backbone="null")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"needs onnx .*pip install 'wsi-vmamba\[onnx\]'"):
        wv.export_onnx()
    assert not list(tmp_path.iterdir())
