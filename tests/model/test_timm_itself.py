"""Named encoders through timm itself, where it is installed: its features, its cache, its configurations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from wsi_vmamba.encode import build_encoder, facts_of
from wsi_vmamba.errors import UsageError, WeightsError

with np.errstate(all="ignore"):
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")

CARD = {
    "mean": [0.7, 0.6, 0.7],
    "std": [0.2, 0.25, 0.2],
    "interpolation": "bilinear",
    "input_size": [3, 160, 160],
}

#: What makes the small transformer one with a class token, registers, and no pooling of its own.
ARGUMENTS = {"global_pool": "", "class_token": True, "reg_tokens": 3, "img_size": 160}


def seen_by(model: nn.Module, pixels: np.ndarray, **how) -> torch.Tensor:
    """A window of the model's own size as timm's users normalise it."""
    facts = {**model.pretrained_cfg, **how}
    mean, std = (torch.tensor(facts[which]).view(3, 1, 1) for which in ("mean", "std"))
    return ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]


def window(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_vit4", "test_convnext", "test_resnet"])
def test_the_feature_is_what_the_model_gives_without_its_head(name):
    encoder = build_encoder(f"timm:{name}", weights="random", device="cpu", seed=3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        model = timm.create_model(name, num_classes=0).eval()
        pixels = window(model.pretrained_cfg["input_size"][1])
        wanted = model(seen_by(model, pixels))[0]
    np.testing.assert_allclose(encoder.encode_windows(pixels[None])[0], wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert facts_of(encoder)["timm"] == timm.__version__


def test_a_size_of_ones_own_is_that_of_the_model_too():
    encoder = build_encoder("timm:test_vit:96px", weights="random", device="cpu")
    assert encoder._windows.model.model.patch_embed.img_size == (96, 96)
    assert encoder.encode_windows(window(96)[None]).shape == (1, encoder.dim)
    assert build_encoder("timm:test_resnet:96px", weights="random", device="cpu").facts["input_px"] == 96


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub as it is after a download, with one repository in it; nothing else can be reached."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    torch.manual_seed(1)
    model = timm.create_model("test_vit4", num_classes=0, **ARGUMENTS)
    repository = tmp_path / "models--lab--encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    def put(state=None, **config):
        config = {
            "architecture": "test_vit4", "num_classes": 0, "model_args": ARGUMENTS,
            "pretrained_cfg": {**CARD, "num_classes": 0}, **config,
        }  # fmt: skip
        (snapshot / "config.json").write_text(json.dumps(config))
        state = {**model.state_dict(), **(state or {})}
        safetensors.torch.save_file(
            {k: v for k, v in state.items() if v is not None}, snapshot / "model.safetensors"
        )

    put()
    return model, put


def test_weights_and_configuration_are_taken_from_the_cache_of_the_hub(hub):
    model, _ = hub
    encoder = build_encoder("hf-hub:lab/encoder", device="cpu")
    pixels = window(160)
    with torch.no_grad():
        tokens = model.eval().forward_features(seen_by(model, pixels, **CARD))[0]
    wanted = torch.cat([tokens[0], tokens[4:].mean(dim=0)]).numpy()
    np.testing.assert_allclose(encoder.encode_windows(pixels[None])[0], wanted, rtol=1e-4, atol=1e-5)
    assert tokens.shape[0] == 1 + 3 + 100  # the class, registers, which are in no mean, and patches
    facts = facts_of(encoder)
    assert (facts["tokens"], facts["mean"], facts["interpolation"]) == (
        "class+mean",
        [0.7, 0.6, 0.7],
        "bilinear",
    )


def test_weights_that_do_not_fit_their_configuration_are_refused(hub):
    _, put = hub
    put(state={"blocks.0.ls9.gamma": torch.ones(3)})
    with pytest.raises(WeightsError, match=r"blocks\.0\.ls9\.gamma"):
        build_encoder("hf-hub:lab/encoder", device="cpu")
    put(state={"norm.weight": None}, pretrained_cfg={**CARD, "num_classes": 7, "classifier": "head"})
    with pytest.raises(WeightsError, match=r"norm\.weight"):
        build_encoder("hf-hub:lab/encoder", device="cpu")


def test_what_is_not_in_the_cache_is_said_in_one_line(hub):
    with pytest.raises(UsageError, match=r"hf-hub:lab/other' cannot be had: it is not in the hub's cache"):
        build_encoder("hf-hub:lab/other", device="cpu")
    with pytest.raises(UsageError, match=r"timm:test_vit' cannot be had: it is not in the hub's cache"):
        build_encoder("timm:test_vit", device="cpu")
    with pytest.raises(UsageError, match=r"knows no such model \(did you mean"):
        build_encoder("timm:test_vitt", device="cpu")
