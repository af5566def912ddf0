"""Layer norm, depthwise 3x3 with SiLU and SiLU of the C++ kernels against torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)

#: Rounding of the stored result, relative to the largest value.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
DTYPES = [torch.float32, torch.bfloat16]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("channels", [1, 5, 16, 40, 96, 100])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_layer_norm_equals_torch(
    isa: str, channels: int, gated: bool, source: torch.dtype, target: torch.dtype
) -> None:
    # A mean far from zero shows a variance computed as E[x^2] - E[x]^2.
    x = (normal(3, 7, channels) + 30).to(source)
    weight, bias = normal(channels, seed=1), normal(channels, seed=2)
    gate = normal(3, 7, channels, seed=3).to(source) if gated else None
    out = torch.full(x.shape, torch.nan, dtype=target)
    got = cpu.layer_norm(x, weight, bias, eps=1e-5, out=out, gate=gate, isa=isa)
    assert got is out
    expected = F.layer_norm(x.double(), (channels,), weight.double(), bias.double(), 1e-5)
    expected = expected if gate is None else expected * gate.double()
    # float32 statistics of values near 30 are good to 30 * 2^-24 of the spread.
    assert error(got, expected) <= max(ROUNDING[target], 1e-5)


def test_a_variance_that_overflows_is_not_taken_for_none(isa: str) -> None:
    x = torch.zeros(2, 24)
    x[0, :2] = torch.tensor([1e30, -1e30])
    got = cpu.layer_norm(x, torch.ones(24), torch.zeros(24), isa=isa)
    assert bool(torch.isnan(got[0]).all())
    assert bool((got[1] == 0).all())


def test_layer_norm_keeps_nan_and_may_work_in_place(isa: str) -> None:
    x = normal(4, 24)
    x[2, 5] = torch.nan
    expected = F.layer_norm(x, (24,), torch.ones(24), torch.zeros(24))
    got = cpu.layer_norm(x, torch.ones(24), torch.zeros(24), out=x, isa=isa)
    assert bool(torch.isnan(got[2]).all())
    assert torch.allclose(got[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 8), (3, 5, 5), (7, 33, 40), (4, 70, 96), (3, 64, 17)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_silu_equals_torch(
    isa: str, shape: tuple[int, int, int], with_bias: bool, dtype: torch.dtype
) -> None:
    channels = shape[2]
    rows = normal(*shape).to(dtype)
    weight = normal(9, channels, seed=1)
    bias = normal(channels, seed=2) if with_bias else None
    out = torch.full((shape[0] - 2, *shape[1:]), torch.nan, dtype=dtype)
    got = cpu.depthwise_silu(rows, weight, bias, out=out, isa=isa)
    kernel = weight.double().T.reshape(channels, 1, 3, 3)
    shift = None if bias is None else bias.double()
    image = rows.double().permute(2, 0, 1)[None]
    expected = F.silu(F.conv2d(image, kernel, shift, padding=(0, 1), groups=channels))[0].permute(1, 2, 0)
    assert error(got, expected) <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 7, 16, 1000])
def test_silu_equals_torch(isa: str, dtype: torch.dtype, count: int) -> None:
    x = (8 * normal(count)).to(dtype)
    expected = F.silu(x.double())
    assert error(cpu.silu_(x, isa=isa), expected) <= ROUNDING[dtype]


def test_silu_far_from_zero(isa: str) -> None:
    x = torch.tensor([-3e38, -torch.inf, -1e30, -200.0, 3e38, torch.inf, torch.nan])
    got = cpu.silu_(x.clone(), isa=isa)
    assert float(got[:4].abs().max()) < 1e-35
    assert torch.equal(got[4:6], x[4:6])
    assert bool(got[6].isnan())


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan(isa: str) -> None:
    # A layer norm that does nothing but round: gate holds the values, weight 0 and bias 1.
    bits = torch.randint(-(2**31), 2**31 - 1, (50_000,), generator=torch.Generator().manual_seed(5))
    values = bits.to(torch.int32).view(torch.float32)[None]
    ones, zeros = torch.ones(values.shape[1]), torch.zeros(values.shape[1])
    out = torch.empty(values.shape, dtype=torch.bfloat16)
    cpu.layer_norm(torch.zeros_like(values), zeros, ones, gate=values, out=out, isa=isa)
    normal_range = values.abs() > 1e-37
    assert torch.equal(out[normal_range], values.bfloat16()[normal_range])
    assert torch.equal(torch.isnan(out), torch.isnan(values))


def test_mismatched_arguments_are_refused() -> None:
    x = normal(2, 8)
    with pytest.raises(UsageError, match="weight must have shape"):
        cpu.layer_norm(x, torch.ones(7), torch.ones(8))
    with pytest.raises(UsageError, match="gate must be a contiguous"):
        cpu.layer_norm(x, torch.ones(8), torch.ones(8), gate=x.bfloat16())
    with pytest.raises(UsageError, match="dtype of rows"):
        cpu.depthwise_silu(
            normal(3, 2, 8), normal(9, 8), None, out=torch.empty(1, 2, 8, dtype=torch.bfloat16)
        )
    with pytest.raises(UsageError, match="contiguous"):
        cpu.silu_(x.T)
