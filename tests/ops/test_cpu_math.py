"""exp2 and softplus of the kernels against float64, over their whole range, for every instruction set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsi_vmamba.ops import cpu_module


def apply(name: str, x: Tensor, isa: str, *, rough: bool = False) -> Tensor:
    out = torch.full_like(x, torch.nan)
    getattr(cpu_module.native(), name)(x, out, rough, isa)
    return out


def sample(low: float, high: float) -> Tensor:
    grid = torch.linspace(low, high, 400_001, dtype=torch.float64)
    return torch.cat([grid, torch.logspace(-30, 0, 1001, dtype=torch.float64) * high]).float()


@pytest.mark.parametrize(("rough", "bound"), [(False, 2e-7), (True, 4e-6)])
def test_exp2_has_a_small_relative_error(isa: str, *, rough: bool, bound: float) -> None:
    x = sample(-126, 126)
    exact = torch.exp2(x.double())
    assert float(((apply("exp2", x, isa, rough=rough) - exact) / exact).abs().max()) <= bound


@pytest.mark.parametrize("rough", [False, True])
def test_exp2_is_exact_at_integers(isa: str, *, rough: bool) -> None:
    x = torch.arange(-126.0, 127.0)
    assert torch.equal(apply("exp2", x, isa, rough=rough), torch.exp2(x))


def test_rough_decays_near_one_keep_how_long_a_state_lasts(isa: str) -> None:
    # A state that is multiplied by such a decay at each of thousands of tokens fades at the rate log2(decay).
    x = -torch.logspace(-2, -1, 1001, dtype=torch.float64).float()
    rate = torch.log2(apply("exp2", x, isa, rough=True).double())
    assert float((rate / x.double() - 1).abs().max()) <= 2e-4


@pytest.mark.parametrize("rough", [False, True])
def test_exp2_below_its_range_is_as_good_as_zero(isa: str, *, rough: bool) -> None:
    x = torch.tensor([-127.0, -1e4, -3e38, -math.inf])
    got = apply("exp2", x, isa, rough=rough)
    assert bool(((got >= 0) & (got <= 2.0**-126)).all())


@pytest.mark.parametrize(("rough", "bound"), [(False, 4e-7), (True, 1.6e-4)])
def test_softplus_has_a_small_relative_error(isa: str, *, rough: bool, bound: float) -> None:
    x = sample(-100, 100)
    exact = torch.logaddexp2(x.double(), torch.zeros(1, dtype=torch.float64))
    got = apply("softplus2", x, isa, rough=rough)
    # log2(1 + 2^x) keeps its relative accuracy in the far tail, where it is 2^x / ln 2.
    tail = x < -40
    exact[tail] = torch.exp2(x[tail].double()) / math.log(2)
    assert float(((got - exact) / exact).abs().max()) <= bound


@pytest.mark.parametrize("rough", [False, True])
def test_softplus_at_the_ends(isa: str, *, rough: bool) -> None:
    got = apply("softplus2", torch.tensor([math.inf, 1e30, 3e38, -1e30, -math.inf]), isa, rough=rough)
    assert torch.equal(got[:3], torch.tensor([math.inf, 1e30, 3e38]))
    assert bool(((got[3:] >= 0) & (got[3:] < 2e-38)).all())


@pytest.mark.parametrize("rough", [False, True])
def test_nan_comes_out_as_nan_whatever_its_bits(isa: str, *, rough: bool) -> None:
    bits = torch.tensor([0x7FC00000, -0x400000, 0x7FC00001, 0x7FFFFFFF, -1], dtype=torch.int32)
    nans = bits.view(torch.float32)
    assert bool(torch.isnan(nans).all())
    for name in ("exp2", "softplus2"):
        assert bool(torch.isnan(apply(name, nans, isa, rough=rough)).all()), name
