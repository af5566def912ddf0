from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.model import build_backbone
from wsi_vmamba.training.optimise import averaged, backbone_groups, parameter_groups


def names_of(groups, model) -> list[set[str]]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{by_id[id(parameter)] for parameter in group["params"]} for group in groups]


def test_matrices_decay_and_nothing_that_sets_a_scale_does():
    model = AGGREGATORS.resolve("ss2d")(12, 2, hidden_dim=16)
    groups = parameter_groups(model, weight_decay=0.1)
    decaying, still = names_of(groups, model)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert decaying | still == {name for name, _ in model.named_parameters()}
    assert not decaying & still
    assert "embed.0.weight" in decaying
    assert {"context.scan.A_logs", "context.scan.dt_bias", "context.scan.norm.weight", "gain"} <= still


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("vmamba_pico", num_classes=3)


def test_layers_learn_the_slower_the_further_from_the_output(backbone):
    groups = backbone_groups(backbone, learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    rate_of, decay_of = {}, {}
    for names, group in zip(names_of(groups, backbone), groups, strict=True):
        rate_of.update(dict.fromkeys(names, group["lr"]))
        decay_of.update(dict.fromkeys(names, group["weight_decay"]))
    assert set(rate_of) == {name for name, _ in backbone.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(rate_of)  # none twice
    depths = backbone.config.depths
    blocks = [f"layers.{i}.blocks.{j}." for i, depth in enumerate(depths) for j in range(depth)]
    for place, prefix in enumerate(reversed(blocks), start=1):
        rates = {rate for name, rate in rate_of.items() if name.startswith(prefix)}
        assert rates == {0.5**place}, prefix
    assert rate_of["classifier.head.weight"] == 1.0
    assert rate_of["patch_embed.0.weight"] == 0.5 ** (len(blocks) + 1)
    first = 0.5 ** len(blocks) * 2 ** (depths[0] - 1)  # of the last block of the first stage
    assert rate_of["layers.0.downsample.1.weight"] == first
    assert decay_of["layers.0.blocks.0.op.A_logs"] == 0
    assert decay_of["layers.0.blocks.0.op.in_proj.weight"] == 0.05


def test_groups_train(backbone):
    groups = backbone_groups(backbone, learning_rate=1e-2, weight_decay=0.0, layer_decay=0.1)
    optimizer = torch.optim.SGD(groups)
    before = {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (before[name] - p).abs().max().item() for name, p in backbone.named_parameters()}
    assert moved["classifier.head.bias"] == pytest.approx(1e-2, rel=1e-3)
    last = f"layers.{len(backbone.config.depths) - 1}.blocks.{backbone.config.depths[-1] - 1}.norm.bias"
    assert moved[last] == pytest.approx(1e-3, rel=1e-3)


def test_average_follows_its_formula_and_without_decay_is_the_model():
    model = nn.Linear(1, 1, bias=False)
    for decay in (0.0, 0.5):
        follower = averaged(model, decay=decay)
        expected = None
        for step in range(20):
            with torch.no_grad():
                model.weight.fill_(float(step**2))
            follower.update_parameters(model)
            share = min(decay, (1 + step) / (10 + step))
            new = float(step**2)
            expected = new if expected is None else expected * share + new * (1 - share)
            assert follower.module.weight.item() == pytest.approx(expected, rel=1e-6)
        if decay == 0:
            assert torch.equal(follower.module.weight, model.weight)
