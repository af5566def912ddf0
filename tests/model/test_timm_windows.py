"""Baselines through timm, with a stand-in for it: windows, normalisation, weights, and its absence."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from wsi_vmamba.encode import build_encoder
from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model import BACKBONES, build_backbone
from wsi_vmamba.model.shipped import PUBLISHED, resolve_weights
from wsi_vmamba.model.timm_windows import MODELS
from wsi_vmamba.model.weights import weights_hash

NAMES = [name for name in BACKBONES if name.startswith("timm_")]


class Fake(nn.Module):
    """Colour means through a matrix: (n, 3, 224, 224) -> (n, 5)."""

    num_features = 5
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "classifier": "head"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Linear(3, 5)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape))
        out: Tensor = self.norm(x.mean(dim=(2, 3)))
        return out


@pytest.fixture
def timm(monkeypatch):
    module = ModuleType("timm")
    module.asked = []

    def create_model(name, *, pretrained, num_classes):
        module.asked.append((name, pretrained, num_classes))
        return Fake()

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_each_baseline_names_a_model_and_where_its_weights_are():
    assert set(NAMES) == set(MODELS) == set(PUBLISHED)
    for name in NAMES:
        assert PUBLISHED[name].endswith(MODELS[name])


def test_windows_are_encoded_each_for_itself_in_their_place(timm):
    encoder = build_encoder("timm_vit_small", device="cpu", precision="fp32", weights="random", seed=4)
    assert timm.asked == [("vit_small_patch16_224.augreg_in21k_ft_in1k", False, 0)]
    assert (encoder.dim, encoder.stride_px) == (5, 256)
    # 5 x 3 windows of one colour each, more rows than one band; the last row and column are cut.
    colours = np.random.default_rng(0).integers(0, 256, (5, 3, 3), dtype=np.uint8)
    pixels = colours.repeat(256, axis=0).repeat(256, axis=1)
    found = encoder.encode(pixels)
    model = build_backbone("timm_vit_small", seed=4).model
    with torch.no_grad():
        wanted = model.norm((torch.from_numpy(colours).float() / 255 - 0.5) / torch.tensor([0.25, 0.5, 1.0]))
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_what_is_cut_is_filled_with_white(timm):
    encoder = build_encoder("timm_resnet152", device="cpu", precision="fp32", weights="random")
    pixels = np.zeros((256, 300, 3), dtype=np.uint8)
    filled = np.full((256, 512, 3), 255, dtype=np.uint8)
    filled[:, :300] = 0
    np.testing.assert_allclose(encoder.encode(pixels), encoder.encode(filled), atol=1e-6)


def test_the_model_sees_squares_of_the_size_it_was_trained_on(timm):
    backbone = build_backbone("timm_swin_tiny")
    backbone.forward_features(torch.zeros(1, 3, 9 * 256, 8 * 256))
    assert backbone.model.sizes == [(64, 3, 224, 224), (8, 3, 224, 224)]


def test_random_weights_follow_the_seed_and_nothing_else(timm):
    hashes = [weights_hash(build_backbone("timm_resnet152", seed=seed)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_weights_file_fills_the_model_and_only_its_head_may_be_left_over(timm, tmp_path):
    source = Fake()
    state = {**source.state_dict(), "head.weight": torch.zeros(1000, 5)}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    loaded = build_backbone("timm_resnet152", weights=tmp_path / "w.safetensors")
    torch.testing.assert_close(loaded.model.norm.weight, source.norm.weight, rtol=0, atol=0)
    for change in ({"other.weight": torch.zeros(1)}, {"norm.weight": torch.zeros(5, 4)}):
        safetensors.torch.save_file({**state, **change}, tmp_path / "odd.safetensors")
        with pytest.raises(WeightsError, match=next(iter(change))):
            build_backbone("timm_resnet152", weights=tmp_path / "odd.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_the_command_says_where_they_are(name):
    with pytest.raises(UsageError, match=f"no weights are shipped with {name}.*huggingface.co/timm/"):
        resolve_weights(name, "auto")


@pytest.mark.parametrize(
    "error",
    [ImportError("No module named 'torchvision'"), RuntimeError("operator torchvision::nms does not exist")],
)
def test_without_timm_or_with_another_torchvision_the_extra_is_named(monkeypatch, error):
    real = builtins.__import__

    def refuse(name, *arguments, **named):
        if name == "timm":
            raise error
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        UsageError, match=rf"{error}.*wsi-vmamba\[timm\]', with a torchvision that matches torch"
    ):
        build_backbone("timm_resnet152")


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_timm_gives_the_features_of_timm(name, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(0)
    classifier = timm.create_model(MODELS[name], pretrained=False).eval()
    safetensors.torch.save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    encoder = build_encoder(name, device="cpu", precision="fp32", weights=tmp_path / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    found = encoder.encode(pixels)
    facts = classifier.pretrained_cfg
    mean, std = (torch.tensor(facts[which]).view(3, 1, 1) for which in ("mean", "std"))
    for column in range(2):
        window = torch.from_numpy(pixels[:, 256 * column : 256 * (column + 1)].copy()).permute(2, 0, 1) / 255
        small = nn.functional.interpolate(
            window[None], size=facts["input_size"][1:], mode="bilinear", antialias=True
        )
        with torch.no_grad():
            wanted = classifier.forward_head(
                classifier.forward_features((small - mean) / std), pre_logits=True
            )
        np.testing.assert_allclose(found[0, column], wanted[0].numpy(), rtol=1e-4, atol=1e-4)
