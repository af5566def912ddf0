"""The guard: what it takes for a divergence, and that it names the layer in which one begins."""

from __future__ import annotations

import math

import pytest
import torch

from wsi_vmamba.model import build_backbone
from wsi_vmamba.training.guard import Watch, diagnose, gradient_norms, layer_of


def seen(watch, steps, *, loss=1.0, gradient=1.0):
    return [watch.see(loss=loss, gradient=gradient) for _ in range(steps)]


@pytest.mark.parametrize(
    ("loss", "gradient", "words"),
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (1.0, math.inf, "the norm of the gradient is inf"),
    ],
)
def test_what_is_not_finite_is_said_at_once(loss, gradient, words):
    assert Watch().see(loss=loss, gradient=gradient) == words


def test_one_spike_is_none_but_five_on_end_are():
    watch = Watch()
    assert not any(seen(watch, 20))
    assert not any(seen(watch, 4, gradient=200.0))
    assert not any(seen(watch, 1))
    found = seen(watch, 5, gradient=200.0)
    assert not any(found[:4])
    assert found[4] == "the norm of the gradient is 200, usually 1, for 5 steps on end"


def test_a_loss_far_above_its_start_is_an_explosion():
    watch = Watch()
    seen(watch, 20, loss=2.0)
    assert seen(watch, 5, loss=9.0)[4] == "the loss is 9, at the start it was 2 at most, for 5 steps on end"


def test_nothing_is_usual_before_some_steps():
    assert not any(seen(Watch(), 10, gradient=1e9))
    watch = Watch()
    for power in range(15):
        assert watch.see(loss=1.0, gradient=10.0**power) == ""


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layers.2.blocks.3.op.x_proj_weight", "layers.2.blocks.3"),
        ("backbone.layers.0.downsample.1.weight", "backbone.layers.0.downsample"),
        ("backbone.patch_embed.0.weight", "backbone.patch_embed"),
        ("classifier.head.weight", "classifier"),
        ("head.mlp.0.weight", "head"),
    ],
)
def test_layers_have_names_that_people_know(name, layer):
    assert layer_of(name) == layer


@pytest.fixture
def model():
    return build_backbone("vmamba_pico", num_classes=3, seed=0)


def step_of(model):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def make_step():
        loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 2]))
        loss.backward()
        return loss

    return make_step


def test_a_nan_in_the_weights_is_named(model):
    with torch.no_grad():
        model.layers[1].blocks[0].mlp.fc1.weight[0, 0] = math.nan
    said = diagnose(model, step_of(model), advice="lower the rate")
    assert said.startswith("its weights are not finite already: layers.1.blocks.0.mlp.fc1.weight;")


@pytest.mark.parametrize(
    "where", ["layers.1.blocks.0.mlp.fc1", "layers.2.blocks.1.op.in_proj", "patch_embed.0"]
)
def test_a_huge_weight_is_named_where_it_is(model, where):
    with torch.no_grad():
        model.get_submodule(where).weight.mul_(1e12)
    said = diagnose(model, step_of(model), advice="lower the rate")
    assert said.startswith(f"it begins in {where}, whose output reaches ")
    assert said.endswith("lower the rate")


def test_a_gradient_that_is_not_finite_is_named_by_the_layer_it_begins_in(model):
    model.layers[1].blocks[1].norm.weight.register_hook(lambda gradient: gradient * math.inf)
    said = diagnose(model, step_of(model), advice="")
    assert said.startswith("it begins in the gradient of layers.1.blocks.1; all outputs are finite")


def test_a_sound_step_has_only_its_largest_gradients_said(model):
    said = diagnose(model, step_of(model), advice="x")
    assert said.startswith("largest gradients: ")
    norms = gradient_norms(model)
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert total == pytest.approx(float(expected), rel=1e-5)
    assert max(norms, key=norms.get) == said.split()[2]
