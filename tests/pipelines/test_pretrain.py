"""`wsi-vmamba pretrain` from slides to weights, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wsi_vmamba as wv
from wsi_vmamba.config.pretrain import DinoSettings, PretrainConfig
from wsi_vmamba.config.views import ViewNumbers
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.pipelines import pretrain


@pytest.fixture
def config(tiny_slides: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        slides=str(tiny_slides), out=str(tmp_path / "out"), steps=2, batch=2, warmup_steps=1, log_steps=1,
        precision="fp32", device="cpu", dino=DinoSettings(prototypes=8, hidden=8, bottleneck=4),
        views=ViewNumbers(large_px=32, n_large=2, small_px=16, n_small=1, field_px=48, um_per_px=[0.5, 1.0]),
    )  # fmt: skip


def test_slides_become_weights_that_a_backbone_takes(config, capsys):
    assert pretrain.run(config)
    out = Path(config.out)
    said = capsys.readouterr().out
    slides = json.loads((out / "pretrain.run.json").read_text())["slides"]
    assert (
        "pretraining vmamba_pico (shipped weights, trained on open slides and generated images) by dino on "
        f"{len(slides)} slides" in said
    )
    assert "step 2/2  loss " in said
    assert f"extract SLIDES --backbone vmamba_pico --weights {out / 'weights.safetensors'}" in said
    model = build_backbone("vmamba_pico", weights=out / "weights.safetensors")
    shipped = (
        Path(pretrain.__file__).parents[1] / "wsi_vmamba/model/pretrained/vmamba_pico_tissue.safetensors"
    )
    before = build_backbone("vmamba_pico", weights=shipped)
    assert not torch.equal(
        model.layers[0].blocks[0].mlp.fc1.weight, before.layers[0].blocks[0].mlp.fc1.weight
    )
    # It ends as one that is finished: nothing is left to do, and nothing changes.
    content = (out / "weights.safetensors").read_bytes()
    assert pretrain.run(config.changed(resume=True))
    assert (out / "weights.safetensors").read_bytes() == content
    assert "going on after step 2 of 2" in capsys.readouterr().out


def test_a_slide_that_cannot_be_used_is_named_and_the_command_fails(config, capsys):
    (Path(config.slides) / "broken.svs").write_bytes(b"II*\0" + bytes(20))
    assert not pretrain.run(config)
    found = capsys.readouterr()
    assert "left out: " in found.err
    assert "broken.svs" in found.err


def test_a_run_that_is_there_is_refused_before_any_slide_is_looked_at(config):
    out = Path(config.out)
    out.mkdir()
    (out / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="holds a run already"):
        pretrain.run(config.changed(slides=str(out / "none")))


def test_from_python_to_the_same_bytes(config, tmp_path):
    (Path(config.slides) / "broken.svs").write_bytes(b"II*\0" + bytes(20))
    assert not pretrain.run(config)
    told = []
    settings = config.model_dump(exclude={"slides", "out"})
    made = wv.pretrain(config.slides, out=tmp_path / "python", on_report=told.append, **settings)
    assert made.weights.read_bytes() == (Path(config.out) / "weights.safetensors").read_bytes()
    assert [line["step"] for line in made.log] == [report.step for report in told] == [1, 2]
    assert ["broken.svs" in str(error) for error in made.left_out] == [True]
    assert (tmp_path / "python" / "pretrain.run.json").is_file()
    with pytest.raises(UsageError, match="resume"):
        wv.pretrain(config.slides, out=made.folder, **settings)
