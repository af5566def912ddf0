"""Settings by value: what a key accepts, where it ends up, and what is said of one that is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from wsi_vmamba import device as devices
from wsi_vmamba.cli import app
from wsi_vmamba.config import (
    CheckConfig,
    DownloadConfig,
    ExtractConfig,
    InfoConfig,
    OtsuSettings,
    PlanConfig,
    SynthConfig,
    TrainConfig,
    dump_config,
    resolve_config,
)
from wsi_vmamba.device import resolve_device
from wsi_vmamba.errors import ConfigError, UsageError
from wsi_vmamba.model import BACKBONES, build_backbone, stride_px
from wsi_vmamba.model.shipped import FROM_FILE
from wsi_vmamba.regions import RegionSpec


def test_a_device_may_be_one_of_several_gpus():
    for word in ("auto", "cpu", "cuda", "cuda:0", "cuda:13"):
        assert resolve_config(ExtractConfig, options={"device": word}).device == word
    for word in ("gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cuda:1 "):
        with pytest.raises(ConfigError, match=r"device: unknown device .*auto, cpu, cuda, cuda:N"):
            resolve_config(ExtractConfig, options={"device": word})


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(word) for word in ("auto", "cpu", "cuda", "cuda:1")] == [
        "cuda",
        "cpu",
        "cuda",
        "cuda:1",
    ]
    assert [devices.is_gpu(word) for word in ("cpu", "cuda", "cuda:1")] == [False, True, True]
    with pytest.raises(UsageError, match="'cuda:2' was asked for, but torch sees cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UsageError, match="torch sees no CUDA device; use cpu or auto"):
        resolve_device("cuda:1")


def test_the_numbers_of_the_segmenter_come_from_set_and_from_a_file(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("segmenter_settings:\n  close_um: 20.0\n  min_contrast: 9\n")
    config = resolve_config(
        ExtractConfig, file=tmp_path / "c.yaml", assignments=["segmenter_settings.min_contrast=5"]
    )
    assert config.segmenter_settings == OtsuSettings(close_um=20.0, min_contrast=5)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert resolve_config(ExtractConfig, file=tmp_path / "again.yaml") == config
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("segmenter_settings.min_contras=5", "did you mean 'segmenter_settings.min_contrast'"),
        (
            "segmenter_settings.min_contrast=-5",
            "segmenter_settings.min_contrast: .*greater than or equal to 0",
        ),
        (
            "segmenter_settings.min_saturation=99",
            "min_saturation must not be above max_saturation, got 99 and 24",
        ),
        ("segmenter_setings.close_um=5", "did you mean 'segmenter_settings'"),
        ("region_px.close_um=5", "'region_px' is one value"),
        ("segmenter_settings=5", "segmenter_settings"),
    ],
)
def test_wrong_numbers_of_the_segmenter_are_refused_by_name(assignment: str, words: str):
    with pytest.raises(ConfigError, match=words):
        resolve_config(ExtractConfig, assignments=[assignment])


@pytest.mark.parametrize("other", ["segmenter=all", "mask=masks"])
def test_numbers_that_would_have_no_effect_are_refused(other: str):
    with pytest.raises(ConfigError, match="segmenter_settings are numbers of the segmenter otsu, and"):
        resolve_config(ExtractConfig, assignments=[other, "segmenter_settings.close_um=20"])


def test_a_nested_key_that_is_set_twice_is_refused_with_both_lines(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("segmenter_settings:\n  close_um: 1\n  min_contrast: 2\n  close_um: 3\n")
    with pytest.raises(ConfigError, match=r"line 4: 'close_um' is set in line 2 too"):
        resolve_config(ExtractConfig, file=tmp_path / "c.yaml")


def test_the_stride_is_the_backbones_own():
    with pytest.raises(ConfigError, match=r"multiple of 32 \(the stride of vmamba_pico\), got 100"):
        ExtractConfig(patch_px=100)
    with pytest.raises(ConfigError, match=r"multiple of 256 \(the stride of timm_swin_tiny\), got 128"):
        ExtractConfig(patch_px=128, backbone="timm_swin_tiny")
    assert ExtractConfig(patch_px=32, backbone="null").patch_px == 32


@pytest.mark.parametrize("name", ["vmamba_pico", "null", "vmamba_tiny_v0"])
def test_the_stride_that_is_known_before_is_that_of_what_is_built(name: str):
    assert stride_px(name) == build_backbone(name).stride_px


def test_every_backbone_here_says_its_stride_before_it_is_built():
    assert all(stride_px(name) for name in BACKBONES if name not in FROM_FILE)


def test_defaults_of_the_plan_are_those_of_the_command():
    spec, config = RegionSpec(), PlanConfig()
    for key in ("target_mpp", "region_px", "patch_px", "min_tissue"):
        assert getattr(spec, key) == getattr(config, key)


def test_what_is_missing_is_named_with_how_to_give_it(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"dataset is missing; give it .*; to is missing"):
        resolve_config(DownloadConfig)
    (tmp_path / "c.yaml").write_text("dataset: camelyon16\nslides: ['test_*']\n")
    config = resolve_config(CheckConfig, file=tmp_path / "c.yaml", options={"folder": "d"})
    assert (config.dataset, config.folder, config.slides) == ("camelyon16", "d", ["test_*"])


def test_info_takes_the_file_of_extract(tmp_path: Path):
    (tmp_path / "c.yaml").write_text(
        dump_config(ExtractConfig(slides="folder", patch_px=64, backbone="null"))
    )
    config = resolve_config(InfoConfig, file=tmp_path / "c.yaml", options={"slides": "a.svs"})
    assert (config.slides, config.patch_px, config.backbone) == ("a.svs", 64, "null")
    with pytest.raises(ConfigError, match="slides is missing"):
        resolve_config(InfoConfig)


def test_a_changed_copy_is_checked():
    assert ExtractConfig(seed=3).changed(patch_px=64) == ExtractConfig(seed=3, patch_px=64)
    with pytest.raises(ConfigError, match="multiple of 32"):
        ExtractConfig().changed(patch_px=65)


@pytest.mark.parametrize(("done", "code"), [(True, 0), (False, 1)])
def test_what_a_recipe_returns_becomes_the_exit_code(monkeypatch, done, code):
    monkeypatch.setattr("wsi_vmamba.pipelines.doctor.run", lambda config: done)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == code


@pytest.mark.parametrize(
    ("model", "key", "word", "said"),
    [
        (
            SynthConfig,
            "cohort",
            "node",
            "cohort 'node' (did you mean 'nodes'?); choose from near-far, nodes, ring-line",
        ),
        (ExtractConfig, "precision", "fp8", "precision 'fp8'; choose from auto, bf16, fp32"),
        (ExtractConfig, "on_bad_tile", "x", "on bad tile 'x'; choose from fail, skip"),
        (
            TrainConfig,
            "aggregator",
            "abmill",
            "aggregator 'abmill' (did you mean 'abmil'?); choose from abmil, ",
        ),
    ],
)
def test_a_word_that_is_no_choice_is_refused_as_a_name_that_is_in_no_table(model, key, word, said):
    with pytest.raises(ConfigError) as caught:
        model(**{key: word})
    assert f": {key}: unknown {said}" in str(caught.value)
    assert str(caught.value).count(repr(word)) == 1
