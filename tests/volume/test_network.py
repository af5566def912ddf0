"""VMamba over volumes: what inflated weights give, and that the planes are really looked across."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.volume.build import build_volume, inflate
from wsi_vmamba.volume.network import VMamba3D
from wsi_vmamba.volume.ss3d import SS3D

SMALL = VMambaConfig(depths=(1, 2), dims=(16, 32), num_classes=3)
#: The first generation: 16 states, a gate, no MLP, patches of 4 px.
VANILLA = VMambaConfig(
    depths=(1, 1), dims=(16, 32), ssm_ratio=2.0, d_state=16, mlp_ratio=0.0, gated=True, conv_bias=True,
    patch_embed=1, downsample=1, num_classes=3,
)  # fmt: skip


def pictures(n: int, *, height: int = 24, width: int = 40) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(3))


def inflated(config: VMambaConfig, **options: int) -> tuple[torch.nn.Module, VMamba3D]:
    flat = build_backbone(config, seed=5).eval()
    deep = VMamba3D(config, **options).eval()
    deep.load_state_dict(inflate(flat.state_dict(), **options))
    return flat, deep


@pytest.mark.parametrize("config", [SMALL, VANILLA], ids=["v05", "v0"])
@torch.inference_mode()
def test_one_plane_gives_what_the_picture_gives(config):
    flat, deep = inflated(config)
    images = pictures(2)
    torch.testing.assert_close(deep(images[:, :, None]), flat(images), rtol=1e-5, atol=1e-6)
    features = deep.forward_features(images[:, :, None])
    torch.testing.assert_close(features[:, :, 0], flat.forward_features(images), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_equal_planes_that_the_stem_takes_together_give_what_the_picture_gives():
    flat, deep = inflated(SMALL, frames_per_token=2)
    images = pictures(2)
    twice = images[:, :, None].repeat(1, 1, 2, 1, 1)
    torch.testing.assert_close(deep(twice), flat(images), rtol=1e-5, atol=1e-6)
    assert deep.forward_features(twice.repeat(1, 1, 2, 1, 1)).shape == (2, 32, 2, 3, 5)


def test_the_paths_through_the_planes_learn_from_the_first_step_on():
    _, deep = inflated(SMALL)
    deep(pictures(6).view(2, 3, 3, 24, 40)).square().sum().backward()
    for block in deep.layers[0].blocks:
        through = block.op.x_proj_weight.grad[4:]
        assert through[:, -1].abs().max() > 0  # C, which is zero
        assert block.op.Ds.grad[4 * 16 :].abs().max() > 0
        assert block.op.conv_t.weight.grad.abs().amax(dim=(0, 1)).min() > 0


@pytest.mark.parametrize("frames_per_token", [1, 2])
@torch.inference_mode()
def test_every_plane_is_felt_in_every_other_and_no_clip_in_another(frames_per_token):
    torch.manual_seed(2)
    model = VMamba3D(SMALL, frames_per_token=frames_per_token).eval()
    clips = pictures(8, height=16, width=16).view(2, 4, 3, 16, 16).transpose(1, 2)
    before = model.forward_features(clips)
    for plane in range(4):
        changed = clips.clone()
        changed[0, :, plane, 5, 7] += 3
        difference = (model.forward_features(changed) - before).abs().amax(dim=1)
        assert (difference[0] > 1e-7).all()
        assert torch.equal(difference[1], torch.zeros_like(difference[1]))


@torch.inference_mode()
def test_the_order_of_the_frames_matters():
    torch.manual_seed(2)
    model = VMamba3D(SMALL).eval()
    clip = pictures(4).view(1, 4, 3, 24, 40).transpose(1, 2)
    turned_back = model.forward_features(clip.flip(2)).flip(2)
    assert (model.forward_features(clip) - turned_back).abs().max() > 1e-3


def test_files_of_either_network_are_loaded(tmp_path):
    flat, deep = build_backbone(SMALL, seed=5), build_volume(SMALL, seed=6)
    for name, model in (("flat", flat), ("deep", deep)):
        safetensors.torch.save_file(model.state_dict(), tmp_path / name)
    own = build_volume(SMALL, weights=tmp_path / "deep").state_dict()
    for key, value in deep.state_dict().items():
        assert torch.equal(own[key], value), key
    from_flat = build_volume(SMALL, weights=tmp_path / "flat").state_dict()
    for key, value in inflate(flat.state_dict()).items():
        assert torch.equal(from_flat[key], value), key
    with pytest.raises(
        WeightsError, match=r"patch_embed.0.weight is \(8, 3, 3, 3\), the model has \(8, 6, 3, 3\)"
    ):
        build_volume(SMALL, weights=tmp_path / "deep", frames_per_token=2)


def test_what_is_no_volume_is_refused():
    model = build_volume(SMALL, frames_per_token=2)
    with pytest.raises(UsageError, match=r"expected volumes \(B, 3, T, H, W\) .* got \(2, 3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UsageError, match="expected a multiple of 2 planes, got 3"):
        model(torch.zeros(1, 3, 3, 8, 8))
    with pytest.raises(UsageError, match="null is none"):
        build_volume("null")
    with pytest.raises(UsageError, match="share_directions must be false"):
        VMamba3D(VMambaConfig(depths=(1,), dims=(16,), share_directions=True))


@torch.inference_mode()
def test_the_convolution_is_that_of_a_volume_whose_weights_are_a_product():
    torch.manual_seed(4)
    layer = SS3D(d_model=16, d_inner=16, d_state=1, dt_rank=1, gated=False, conv_bias=True)
    u = torch.randn(2, 4, 5, 6, 16)
    within, across = layer.conv2d.weight[:, 0], layer.conv_t.weight[:, 0]
    weight = torch.einsum("ct,chw->cthw", across, within)[:, None]
    # The bias is of a plane, before the planes are mixed, and there is none outside the volume.
    bias = layer.conv2d.bias[:, None] * torch.stack(
        [across[:, 1:].sum(1), across.sum(1), across.sum(1), across[:, :2].sum(1)], dim=1
    )
    whole = torch.nn.functional.conv3d(u.permute(0, 4, 1, 2, 3), weight, padding=1, groups=16)
    expected = torch.nn.functional.silu(whole + bias[None, :, :, None, None]).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(layer._convolve(u), expected, rtol=1e-5, atol=1e-6)
