"""Stochastic depth: the mean is kept, rates rise block by block, nothing changes outside training."""

from __future__ import annotations

import pytest
import torch

from wsi_vmamba.errors import UsageError
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.drop_path import drop_path, set_drop_path
from wsi_vmamba.model.vmamba import VMamba

SMALL = VMambaConfig(depths=(1, 2, 2), dims=(8, 16, 16), num_classes=2)


def test_whole_images_are_dropped_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    branch = torch.full((40_000, 2, 3), 5.0)
    found = drop_path(branch, rate=0.3, training=True)
    assert sorted(found.unique().tolist()) == pytest.approx([0.0, 5 / 0.7])
    per_image = found.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    assert (per_image[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert found.mean().item() == pytest.approx(5.0, abs=0.1)


def test_at_rate_zero_and_outside_training_the_branch_itself_comes_back() -> None:
    branch = torch.ones(4, 2)
    before = torch.get_rng_state()
    assert drop_path(branch, rate=0.0, training=True) is branch
    assert drop_path(branch, rate=0.5, training=False) is branch
    assert torch.equal(torch.get_rng_state(), before)


def test_rates_rise_evenly_over_all_blocks() -> None:
    model = VMamba(SMALL)
    set_drop_path(model, 0.6)
    rates = [block.drop_path_rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.15, 0.3, 0.45, 0.6])
    with pytest.raises(UsageError, match=r"at least 0 and below 1, got 1\.0"):
        set_drop_path(model, 1.0)


def test_a_model_drops_in_training_only() -> None:
    torch.manual_seed(1)
    model = VMamba(SMALL)
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        plain = model.eval()(image)
        torch.testing.assert_close(model.train()(image), plain)
        set_drop_path(model, 0.5)
        dropped = [model.train()(image) for _ in range(6)]
        assert not all(torch.allclose(one, plain, atol=1e-4) for one in dropped)
        assert torch.equal(model.eval()(image), plain)
    assert not any("drop" in key for key in model.state_dict())


def test_a_block_whose_branches_are_both_dropped_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    block = VMamba(SMALL).layers[1].blocks[1]
    block.drop_path_rate = 0.9
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))
    x = torch.randn(2, 4, 4, 16)
    assert torch.equal(block.train()(x), x)
