"""Gradient checkpointing: the same gradients to the last bit, and less that is kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.build import vmamba
from wsi_vmamba.model.drop_path import set_drop_path

CONFIGS = {
    "second generation": VMambaConfig(depths=(1, 3), dims=(16, 32), num_classes=3),
    "vanilla": VMambaConfig(
        depths=(1, 2), dims=(16, 32), d_state=4, mlp_ratio=0.0, gated=True, conv_bias=True, patch_embed=1,
        downsample=1, norm_layout="ln", num_classes=3,
    ),
}  # fmt: skip


def step(config, *, checkpointing, training=True, drop_path=0.0):
    """Gradients of a step, and how many numbers the forward pass kept for it."""
    model = vmamba(config, num_classes=None, weights=None, seed=0).train(training)
    model.grad_checkpointing = checkpointing
    set_drop_path(model, drop_path)
    images = torch.randn(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2]))
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    held = sum(size for place, size in kept.items() if place not in weights)
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters()}, held


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_the_same_to_the_last_bit(config, training, drop_path):
    wanted, held = step(config, checkpointing=False, training=training, drop_path=drop_path)
    found, held_less = step(config, checkpointing=True, training=training, drop_path=drop_path)
    assert all(one is not None for one in wanted.values())
    for name, one in wanted.items():
        assert torch.equal(found[name], one), name
    assert held_less < held / 2


def test_nothing_is_made_twice_without_a_gradient():
    model = vmamba(CONFIGS["vanilla"], num_classes=None, weights=None, seed=0).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(images)
        model.grad_checkpointing = True
        assert torch.equal(model(images), wanted)
    assert not wanted.requires_grad
