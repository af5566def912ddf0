"""The scan of small maps, token by token, against the float64 reference: outputs and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from wsi_vmamba import ops
from wsi_vmamba.ops import cpu, packing, walked_map, whole_map

if TYPE_CHECKING:
    from conftest import ScanCase

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)

#: (batch, height, width, channels, dt rank, states): odd lengths, single rows and columns, channels that do not fill
#: a vector, ranks around the number of sums made at once, more images than shares, several ranges of channels.
SHAPES = [
    (1, 7, 5, 16, 1, 1),
    (2, 9, 14, 40, 3, 1),
    (1, 1, 37, 24, 2, 1),
    (1, 37, 1, 24, 2, 1),
    (1, 1, 1, 5, 1, 1),
    (21, 4, 4, 64, 4, 1),
    (2, 3, 5, 33, 17, 1),
    (2, 31, 33, 72, 5, 1),
    (1, 64, 64, 20, 2, 1),
]
NAMES = ("u", "proj", "dt_weight", "dt_bias", "A_logs", "Ds")


@pytest.fixture(scope="session", params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def case(cases: Callable[..., ScanCase], request: pytest.FixtureRequest) -> ScanCase:
    return cases(request.param)


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    assert bool(torch.isfinite(got).all())
    return float((got.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("threads", [1, 3])
def test_forward_equals_reference(case: ScanCase, isa: str, threads: int) -> None:
    u, proj, *params = case.inputs
    y = cpu.walk_map(u, proj, cpu.pack_scan(*params), threads=threads, isa=isa)
    assert error(y, case.y) <= 1e-6


@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("threads", [1, 3])
def test_each_gradient_equals_reference(case: ScanCase, isa: str, threads: int) -> None:
    u, proj, *params = case.inputs
    weights = cpu.pack_scan(*params)
    maps = u, proj, weights, case.grad_y
    grad_u, grad_proj, packed = cpu.walk_map_gradients(*maps, threads=threads, isa=isa)
    grads = grad_u, grad_proj, *packing.unpack_gradients(weights, *packed)
    for name, got, expected in zip(NAMES, grads, case.grads, strict=True):
        assert error(got, expected) <= 3e-6, name


@pytest.mark.usefixtures("poisoned_scratch")
def test_bfloat16_is_read_exactly_and_rounded_once(case: ScanCase, isa: str) -> None:
    """What is stored in half precision is the same as with float32 storage, rounded."""
    u, proj, *params = case.inputs
    u, proj, grad_y = u.bfloat16(), proj.bfloat16(), case.grad_y.bfloat16()
    weights = cpu.pack_scan(*params)
    y = cpu.walk_map(u, proj, weights, threads=1, isa=isa)
    assert torch.equal(y, cpu.walk_map(u.float(), proj.float(), weights, threads=1, isa=isa).bfloat16())
    half = cpu.walk_map_gradients(u, proj, weights, grad_y, threads=1, isa=isa)
    wide = cpu.walk_map_gradients(u.float(), proj.float(), weights, grad_y.float(), threads=1, isa=isa)
    assert torch.equal(half[0], wide[0].bfloat16())
    assert torch.equal(half[1], wide[1].bfloat16())
    assert all(torch.equal(a[..., :16], b[..., :16]) for a, b in zip(half[2], wide[2], strict=True))


def test_gradients_do_not_depend_on_the_number_of_threads(cases: Callable[..., ScanCase], isa: str) -> None:
    case = cases((21, 4, 4, 64, 4, 1))
    u, proj, *params = case.inputs
    maps = u, proj, cpu.pack_scan(*params), case.grad_y
    one, three = (cpu.walk_map_gradients(*maps, threads=n, isa=isa) for n in (1, 3))
    assert torch.equal(one[0], three[0])
    assert torch.equal(one[1], three[1])
    assert all(torch.equal(a, b) for a, b in zip(one[2], three[2], strict=True))


def test_extreme_step_sizes_saturate(cases: Callable[..., ScanCase], isa: str) -> None:
    u, proj, dt_weight, dt_bias, A_logs, Ds = cases((1, 4, 5, 20, 2, 1)).inputs
    for bias in (-300.0, 300.0):
        args = [u, proj, dt_weight, torch.full_like(dt_bias, bias), A_logs, Ds]
        exact = [t.double().requires_grad_() for t in args]
        y = ops.ss2d_scan(*exact, backend="reference")
        expected = torch.autograd.grad(y.sum(), exact)
        weights = cpu.pack_scan(*args[2:])
        assert error(cpu.walk_map(u, proj, weights, threads=1, isa=isa), y.detach()) <= 1e-6
        got = cpu.walk_map_gradients(u, proj, weights, torch.ones_like(u), threads=1, isa=isa)
        assert error(got[0], expected[0]) <= 3e-6


def test_nan_is_not_hidden(cases: Callable[..., ScanCase], isa: str) -> None:
    u, proj, *params = cases((1, 4, 5, 20, 2, 1)).inputs
    weights = cpu.pack_scan(*params)
    hurt = u.clone()
    hurt[0, 1, 2, 3] = torch.nan
    y = cpu.walk_map(hurt, proj, weights, threads=1, isa=isa)
    assert bool(torch.isnan(y[..., 3]).all())
    assert bool(torch.isfinite(y[..., [c for c in range(20) if c != 3]]).all())
    broken = proj.clone()
    broken[0, 0, 0, 0] = torch.nan
    got = cpu.walk_map_gradients(u, broken, weights, torch.ones_like(u), threads=1, isa=isa)
    # The step size of the first token touches its own gradient of u alone, and those of the weights.
    assert bool(torch.isnan(got[0][0, 0, 0]).all())
    assert bool(torch.isfinite(got[0][0, 1:]).all())
    assert bool(torch.isnan(got[2][1][0, :20]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_walks_small_maps_and_sweeps_large_ones(
    cases: Callable[..., ScanCase], dtype: torch.dtype
) -> None:
    """Both ways through the operator give the reference's gradients, whatever the dtype of the projections."""
    for shape in ((2, 6, 7, 24, 2, 1), (2, 6, 7, 24, 2, 3), (1, 65, 64, 8, 1, 1)):
        case = cases(shape)
        inputs = [t.clone().requires_grad_() for t in case.inputs]
        assert walked_map.suits(inputs[0], shape[-1]) == (shape[-1] == 1 and shape[1] * shape[2] <= 4096)
        y = ops.ss2d_scan(inputs[0].to(dtype), inputs[1].to(dtype), *inputs[2:])
        assert y.dtype == dtype
        grads = torch.autograd.grad(y, inputs, case.grad_y.to(dtype))
        for name, got, expected in zip(NAMES, grads, case.grads, strict=True):
            assert error(got, expected) <= (5e-6 if dtype == torch.float32 else 4e-2), name


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("state", [1, 3], ids=["walked", "swept"])
def test_operator_takes_the_threads_of_torch_for_maps_that_are_worth_it(
    cases: Callable[..., ScanCase], state: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, threads = [], whole_map._threads
    monkeypatch.setattr(whole_map, "_threads", lambda *asked: taken.append(threads(*asked)) or taken[-1])
    case = cases((1, 60, 60, 64, 2, state))
    inputs = [t.clone().requires_grad_() for t in case.inputs]
    y = ops.ss2d_scan(*inputs)
    assert error(y.detach(), case.y) <= 1e-6
    grads = torch.autograd.grad(y, inputs, case.grad_y)
    for name, got, expected in zip(NAMES, grads, case.grads, strict=True):
        assert error(got, expected) <= 5e-6, name
    assert taken == [2, 2]


def test_empty_batch_has_empty_gradients(cases: Callable[..., ScanCase]) -> None:
    u, proj, *params = cases((1, 4, 5, 20, 2, 1)).inputs
    inputs = [t.clone().requires_grad_() for t in (u[:0], proj[:0], *params)]
    grads = torch.autograd.grad(ops.ss2d_scan(*inputs).sum(), inputs)
    assert all(float(grad.abs().sum()) == 0 for grad in grads)
