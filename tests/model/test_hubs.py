"""VMamba where others look for models: `timm.create_model`, and folders and repositories of the hub."""

from __future__ import annotations

import json
import sys

import pytest
import safetensors.torch
import torch

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import FOLDER, SHIPPED
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash

TINY = {"depths": [1, 1], "dims": [16, 32], "num_classes": 3, "share_directions": True}


def test_without_huggingface_hub_the_extra_is_named(monkeypatch, tmp_path):
    from wsi_vmamba.model.hub import hub_class

    hub_class.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"wsi-vmamba\[hub\]"):
        build_backbone(TINY).save_pretrained(tmp_path)


@pytest.fixture
def hub():
    return pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")


def test_a_folder_gives_the_network_back(hub, tmp_path, capsys):
    model = build_backbone(TINY, seed=4)
    model.save_pretrained(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dims"] == [16, 32]
    state = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    assert state.keys() == model.state_dict().keys()
    found = VMamba.from_pretrained(tmp_path / "m")
    assert isinstance(found, VMamba)
    assert (found.config, found.training) == (model.config, False)
    assert weights_hash(found) == weights_hash(model)
    found.save_pretrained(tmp_path / "again")
    assert weights_hash(VMamba.from_pretrained(str(tmp_path / "again"))) == weights_hash(model)
    assert capsys.readouterr().out == ""


def test_a_folder_that_does_not_fill_the_network_is_refused(hub, tmp_path):
    model = build_backbone(TINY)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    del state["classifier.norm.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: classifier\.norm\.weight"):
        VMamba.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "dim": [1]}))
    with pytest.raises(UsageError, match="unknown model field 'dim'"):
        VMamba.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        VMamba.from_pretrained(tmp_path)


def test_what_is_pushed_is_what_a_folder_holds(hub, monkeypatch):
    from wsi_vmamba.model.hub import hub_class

    sent = {}

    class Api:
        def __init__(self, *arguments, **options): ...

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **options):
            sent[repo_id] = {file.name: file.read_bytes() for file in type(self).path(folder_path).iterdir()}
            return "https://example.org/commit"

        @staticmethod
        def path(folder):
            from pathlib import Path

            return Path(folder)

    monkeypatch.setattr(sys.modules[hub_class().push_to_hub.__module__], "HfApi", Api)
    model = build_backbone(TINY)
    assert model.push_to_hub("lab/vmamba") == "https://example.org/commit"
    state = safetensors.torch.load(sent["lab/vmamba"]["model.safetensors"])
    assert state.keys() == model.state_dict().keys()


@pytest.fixture
def timm():
    found = pytest.importorskip("timm", reason="the extra timm is not installed")
    import wsi_vmamba.timm_models  # noqa: F401

    return found


def test_timm_gives_the_maps_of_the_stages(timm):
    model = timm.create_model("vmamba_pico", pretrained=True, features_only=True).eval()
    ours = build_backbone("vmamba_pico", weights=FOLDER / SHIPPED["vmamba_pico"]).eval()
    pixels = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = model(pixels), ours.forward_stages(pixels)
    assert model.feature_info.channels() == [32, 64, 128, 256]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert len(found) == 4
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    some = timm.create_model("vmamba_pico", pretrained=True, features_only=True, out_indices=(1, -1)).eval()
    with torch.no_grad():
        torch.testing.assert_close(some(pixels), [wanted[1], wanted[3]], rtol=0, atol=0)


def test_timm_lists_and_builds_every_variant_with_a_head_or_without(timm):
    assert {"vmamba_tiny_s1l8", "vmamba_base_v0", "vmamba_large"} <= set(timm.list_models("vmamba*"))
    model = timm.create_model("vmamba_tiny_s1l8", features_only=True)
    assert model.feature_info.channels() == [96, 192, 384, 768]
    model = timm.create_model("vmamba_pico", num_classes=7).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(pixels).shape == (2, 7)
        model.reset_classifier(0)
        features = model.forward_features(pixels)
        torch.testing.assert_close(model(pixels), features.mean(dim=(2, 3)))
    with pytest.raises(UsageError, match="in_chans=4"):
        timm.create_model("vmamba_pico", in_chans=4)


def test_checkpointing_changes_no_gradient(timm):
    model = timm.create_model("vmamba_pico", num_classes=2, drop_path_rate=0.0).train()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(pixels).sum().backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])
