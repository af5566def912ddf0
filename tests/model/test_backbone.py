"""Building backbones: names, fields, seeds, autograd, dtypes."""

from __future__ import annotations

import math

import pytest
import torch

from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.model import BACKBONES, VMambaConfig, build_backbone
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import weights_hash

TINY = {"depths": [1, 1], "dims": [16, 24], "num_classes": 3}

#: Published parameter counts.
PARAMETERS = {
    "vmamba_tiny_s1l8": 30_249_064,
    "vmamba_tiny_s2l5": 30_705_832,
    "vmamba_small_s1l20": 49_012_840,
    "vmamba_small_s2l15": 50_147_752,
    "vmamba_base_s1l20": 86_614_504,
    "vmamba_base_s2l15": 88_557_800,
    "vmamba_tiny_v0": 22_893_448,
    "vmamba_small_v0": 44_417_416,
    "vmamba_base_v0": 76_254_056,
}


def test_every_variant_is_a_backbone_and_every_backbone_builds_lazily() -> None:
    assert set(BACKBONES) == {*VARIANTS, "null", "onnx", "timm_resnet152", "timm_swin_tiny", "timm_vit_small"}
    assert all(callable(BACKBONES.resolve(name)) for name in BACKBONES)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = VMamba(VARIANTS[name])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_large_has_206_million_parameters_and_runs() -> None:
    """The count was made by hand: 10 d² in the linears of a block, d² / 2 and some rows for its scan."""
    with torch.device("meta"):
        model = VMamba(VARIANTS["vmamba_large"])
    assert sum(p.numel() for p in model.parameters()) == 206_162_152
    model = model.to_empty(device="cpu")  # its own initialisation takes ten seconds
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        maps = model.forward_stages(torch.rand(1, 3, 64, 64))
    assert [tuple(one.shape[1:]) for one in maps] == [(192, 16, 16), (384, 8, 8), (768, 4, 4), (1536, 2, 2)]
    assert all(bool(one.isfinite().all()) for one in maps)


def test_pico_is_between_two_and_three_million_parameters() -> None:
    model = build_backbone("vmamba_pico")
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 3e6


def test_unknown_name_is_refused_by_listing() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'vmamba_tiny_s1l8'.*vmamba_pico"):
        build_backbone("vmamba_tiny_s1l9")


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ssm_ratio'"):
        build_backbone({**TINY, "ssm_rato": 2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", [1, 0]),
        ("depths", [1, 1, 1]),
        ("dims", "96"),
        ("d_state", True),
        ("d_state", 0),
        ("ssm_ratio", 0),
        ("ssm_ratio", "2"),
        ("ssm_ratio", 0.01),
        ("mlp_ratio", -1),
        ("mlp_ratio", math.nan),
        ("gated", 1),
        ("patch_embed", 3),
        ("downsample", 0),
        ("downsample", True),
        ("norm_layout", "bn"),
        ("num_classes", 0),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        VMambaConfig.from_mapping({**TINY, field: value})


def test_missing_fields_are_named() -> None:
    with pytest.raises(UsageError, match="dims"):
        build_backbone({"depths": [1]})


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        VARIANTS["vmamba_pico"].depths = (1,)  # type: ignore[misc]


def test_same_seed_same_weights_and_the_callers_random_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    first = weights_hash(build_backbone(TINY, seed=1))
    after = torch.rand(1).item()
    torch.manual_seed(5)
    assert torch.rand(1).item() == after
    assert weights_hash(build_backbone(TINY, seed=1)) == first
    assert weights_hash(build_backbone(TINY, seed=2)) != first


def test_initial_scan_parameters_follow_the_paper() -> None:
    op = build_backbone({**TINY, "d_state": 4, "ssm_ratio": 2.0}).get_submodule("layers.0.blocks.0.op")
    torch.testing.assert_close(torch.exp(op.A_logs), torch.arange(1.0, 5).expand(4 * 32, 4))
    assert torch.equal(op.Ds, torch.ones(4 * 32))
    step = torch.nn.functional.softplus(op.dt_projs_bias)
    assert 0.00099 < step.min() < 0.01 < step.max() < 0.101
    assert op.dt_projs_weight.abs().max() <= op.dt_rank**-0.5


@pytest.mark.parametrize("layout", ["ln2d", "ln"])
def test_outputs_are_channels_first_shapes_whatever_the_layout(layout: str) -> None:
    model = build_backbone({**TINY, "norm_layout": layout})
    x = torch.rand(2, 3, 40, 36)
    stages = model.forward_stages(x)
    assert [tuple(stage.shape) for stage in stages] == [(2, 16, 10, 9), (2, 24, 5, 5)]
    assert stages[0].is_contiguous() == (layout == "ln2d")
    features = model.forward_features(x)
    expected = model.get_submodule("classifier.head")(features.mean((2, 3)))
    torch.testing.assert_close(model(x), expected)


def test_sharing_directions_equals_four_equal_sets() -> None:
    shared = build_backbone({**TINY, "share_directions": True})
    separate = build_backbone(TINY)
    state = shared.state_dict()
    for key, value in separate.state_dict().items():
        if state[key].shape != value.shape:
            state[key] = state[key].repeat(4, *[1] * (value.ndim - 1))
    separate.load_state_dict(state, strict=True)
    x = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(shared(x), separate(x))


def test_shared_directions_save_three_sets_and_learn_from_all_four_scans() -> None:
    fields = {**TINY, "gated": False}
    shared = build_backbone({**fields, "share_directions": True}).double()
    separate = build_backbone(fields).double()
    state = shared.state_dict()
    saved = 0
    for key, value in separate.state_dict().items():
        if state[key].shape != value.shape:
            saved += value.numel() - state[key].numel()
            state[key] = state[key].repeat(4, *[1] * (value.ndim - 1))
    separate.load_state_dict(state, strict=True)
    # By hand: in each block three of four sets of (R + 2 N) d of x_proj, R d and d of dt, N d of A and d of D.
    by_hand = sum(
        3 * d * ((rank + 2 * n) + rank + 1 + n + 1)
        for stage, depth in enumerate(shared.config.depths)
        for d, rank, n in [
            (shared.config.d_inner(stage), shared.config.dt_rank(stage), shared.config.d_state)
        ]
        for _ in range(depth)
    )
    counts = [sum(p.numel() for p in model.parameters()) for model in (separate, shared)]
    assert saved == counts[0] - counts[1] == by_hand
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    for model in (shared, separate):
        model(x).square().sum().backward()
    of_four = dict(separate.named_parameters())
    for name, one in shared.named_parameters():
        wanted = of_four[name].grad
        if wanted.shape != one.shape:
            wanted = (
                wanted.reshape(4, *one.shape).sum(dim=0) if one.shape[0] != 1 else wanted.sum(0, keepdim=True)
            )
        torch.testing.assert_close(one.grad, wanted, rtol=1e-8, atol=1e-10, msg=name)


def test_gradients_agree_with_finite_differences() -> None:
    model = build_backbone(
        {"depths": [1], "dims": [4], "num_classes": 2, "gated": True, "d_state": 2}
    ).double()
    x = torch.rand(1, 3, 12, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: model(image), (x,), atol=1e-7, fast_mode=True)


def test_every_parameter_learns() -> None:
    model = build_backbone({**TINY, "gated": True, "conv_bias": True})
    model(torch.rand(2, 3, 48, 48)).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_autocast_bfloat16_stays_close_and_trains() -> None:
    model = build_backbone(TINY)
    x = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.forward_features(x)
    low.float().sum().backward()
    full = model.forward_features(x)
    cosine = torch.nn.functional.cosine_similarity(low.float(), full, dim=1)
    assert cosine.min() > 0.999
    assert all(torch.isfinite(p.grad).all() for n, p in model.named_parameters() if "head" not in n)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32), (1, 3, 0, 32)])
def test_wrong_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected images"):
        build_backbone(TINY)(torch.rand(*shape))


def test_null_backbone_averages_colours() -> None:
    x = torch.rand(1, 3, 40, 64)
    features = build_backbone("null").forward_features(x)
    assert tuple(features.shape) == (1, 6, 2, 2)
    torch.testing.assert_close(features[0, :3, 1, 1], x[0, :, 32:, 32:].mean((1, 2)))
    torch.testing.assert_close(features[0, 3:, 0, 0], x[0, :, :32, :32].square().mean((1, 2)))


def test_null_backbone_refuses_weights() -> None:
    with pytest.raises(UsageError, match="neither weights nor a head"):
        build_backbone("null", weights="x.pth")
