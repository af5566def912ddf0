"""The fused operators of training against the modules they stand for: values, gradients, kernels of every machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.ops import cpu, cpu_module, fused, reference

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)

DTYPES = [torch.float32, torch.bfloat16]
#: Rounding of what is stored, relative to the largest value.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected).abs().max() / expected.abs().max())


def numbers(x: Tensor) -> object:
    return cpu_module.array(x, "x", *DTYPES)


def check(
    operator: Callable[..., Tensor], plain: Callable[..., Tensor], dtype: torch.dtype, *inputs: Tensor
) -> None:
    """Compare value and every gradient with those of ``plain`` in float64; the first input is a map of ``dtype``."""
    inputs = (inputs[0].to(dtype), *inputs[1:])
    own = [t.clone().requires_grad_() for t in inputs]
    exact = [t.double().requires_grad_() for t in inputs]
    got, expected = operator(*own), plain(*exact)
    assert got.dtype == dtype
    assert error(got.detach(), expected.detach()) <= ROUNDING[dtype]
    grad = normal(*expected.shape, seed=9).to(dtype)
    # Half precision rounds what lies between too.
    tolerance = 5e-6 if dtype == torch.float32 else 2e-2
    got_grads = torch.autograd.grad(got, own, grad)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    for i, (one, other, like) in enumerate(zip(got_grads, expected_grads, own, strict=True)):
        assert one.dtype == like.dtype
        assert error(one, other) <= tolerance, i


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "hidden"), [((2, 3, 5, 32), 128), ((1, 1, 1, 16), 48), ((70, 48), 16)])
@pytest.mark.parametrize("block_tokens", [8, 8192])
def test_mlp(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    hidden: int,
    block_tokens: int,
) -> None:
    monkeypatch.setattr(fused, "BLOCK_TOKENS", block_tokens)
    d = shape[-1]

    def operator(x: Tensor, scale: Tensor, shift: Tensor, *linears: Tensor) -> Tensor:
        return fused.mlp(x, (scale, shift, 1e-5), (linears[0], linears[1]), (linears[2], linears[3]))

    def plain(
        x: Tensor, scale: Tensor, shift: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        return x + F.linear(F.gelu(F.linear(F.layer_norm(x, (d,), scale, shift, 1e-5), w1, b1)), w2, b2)

    weights = (
        normal(hidden, d, seed=3) * d**-0.5,
        normal(hidden, seed=4),
        normal(d, hidden, seed=5),
        normal(d, seed=6),
    )
    check(operator, plain, dtype, normal(*shape) + 0.5, 1 + normal(d, seed=1), normal(d, seed=2), *weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 32), (1, 16), (37, 48)])
def test_norm_and_linear_with_and_without_residual(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    d = shape[-1]
    parts = normal(*shape) + 0.5, 1 + normal(d, seed=1), normal(d, seed=2), normal(24, d, seed=3) * d**-0.5
    check(
        lambda x, scale, shift, w: fused.norm_linear(x, (scale, shift, 1e-5), w),
        lambda x, scale, shift, w: F.linear(F.layer_norm(x, (d,), scale, shift, 1e-5), w),
        dtype,
        *parts,
    )
    check(
        lambda x, scale, shift, w, r: fused.norm_linear(x, (scale, shift, 1e-5), w, residual=r.to(dtype)),
        lambda x, scale, shift, w, r: r + F.linear(F.layer_norm(x, (d,), scale, shift, 1e-5), w),
        dtype,
        *parts,
        normal(*shape[:-1], 24, seed=4).to(dtype).float(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 32), (1, 16), (37, 48)])
def test_layer_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    d = shape[-1]
    check(
        lambda x, scale, shift: fused.layer_norm(x, (scale, shift, 1e-5)),
        lambda x, scale, shift: F.layer_norm(x, (d,), scale, shift, 1e-5),
        dtype,
        # A mean far from zero shows a variance computed as E[x^2] - E[x]^2.
        normal(*shape) + (30 if dtype == torch.bfloat16 else 3),
        1 + normal(d, seed=1),
        normal(d, seed=2),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 7, 32), (1, 1, 1, 16), (1, 1, 6, 16), (21, 4, 1, 48)])
def test_depthwise_and_silu(dtype: torch.dtype, with_bias: bool, shape: tuple[int, ...]) -> None:
    d = shape[-1]

    def operator(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return fused.depthwise_silu(x, weight, bias[0] if bias else None)

    def plain(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias[0] if bias else None, padding=1, groups=d)
        return F.silu(x).permute(0, 2, 3, 1)

    parts = (normal(*shape), normal(d, 1, 3, 3, seed=1), *((normal(d, seed=2),) if with_bias else ()))
    check(operator, plain, dtype, *parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (4, 4), (1, 1), (2, 5), (6, 3)])
def test_convolution_with_stride(dtype: torch.dtype, size: tuple[int, int]) -> None:
    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=2, padding=1).permute(0, 2, 3, 1)

    parts = normal(3, *size, 16), normal(24, 16, 3, 3, seed=1) / 12, normal(24, seed=2)
    check(fused.conv_stride_2, plain, dtype, *parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scan_with_its_projections(dtype: torch.dtype) -> None:
    def plain(u: Tensor, x_proj: Tensor, *parameters: Tensor) -> Tensor:
        return reference.ss2d_scan(u, F.linear(u, x_proj), *parameters)

    parameters = (
        normal(4, 32, 2, seed=2),
        normal(4, 32, seed=3) - 2,
        normal(128, 1, seed=4) / 9,
        normal(128, seed=5),
    )
    check(
        lambda u, x_proj, *rest: fused.scan(u, x_proj, (rest[0], rest[1], rest[2], rest[3])),
        plain,
        dtype,
        normal(2, 5, 6, 32),
        normal(16, 32, seed=1) * 32**-0.5,
        *parameters,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 1), (2, 37)])
def test_stem(dtype: torch.dtype, size: tuple[int, int]) -> None:
    images = normal(19, 3, *size) if size == (1, 1) else normal(3, 3, *size)

    def operator(*weights: Tensor) -> Tensor:
        return fused.stem(images, weights[0], weights[1], (weights[2], weights[3], 1e-5), dtype).float()

    def plain(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = F.conv2d(images.double(), weight, bias, stride=2, padding=1).permute(0, 2, 3, 1)
        return F.gelu(F.layer_norm(x, (48,), scale, shift, 1e-5))

    weights = normal(48, 3, 3, 3), normal(48, seed=2), 1 + normal(48, seed=3), normal(48, seed=4)
    own, exact = [t.clone().requires_grad_() for t in weights], [t.double().requires_grad_() for t in weights]
    got, expected = operator(*own), plain(*exact)
    assert error(got.detach(), expected.detach()) <= (2e-6 if dtype == torch.float32 else 2**-8)
    grad = normal(*expected.shape, seed=9).to(dtype).float()
    # Only what is stored is in half precision: the sums are as good as in float32.
    for one, other in zip(
        torch.autograd.grad(got, own, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert error(one, other) <= 1e-5


def test_stem_on_every_machine(isa: str) -> None:
    images, weights = (
        normal(2, 3, 9, 12),
        [normal(27, 16, seed=1) / 5, *(normal(16, seed=s) for s in (2, 3, 4))],
    )
    exact = [t.double().requires_grad_() for t in weights]
    kernel = exact[0].t().reshape(16, 3, 3, 3)
    inner = F.conv2d(images.double(), kernel, exact[1], stride=2, padding=1).permute(0, 2, 3, 1)
    expected = F.gelu(F.layer_norm(inner, (16,), exact[2], exact[3], 1e-5))
    grad, out, sums = (
        normal(*expected.shape),
        torch.full(expected.shape, torch.nan),
        [torch.zeros_like(t) for t in weights],
    )
    inputs = [*map(numbers, (images, *weights)), 1e-5]
    cpu_module.native().stem(*inputs, numbers(out), 2, isa)
    cpu_module.native().stem_gradients(*inputs, numbers(grad), *map(numbers, sums), 2, isa)
    assert error(out, expected.detach()) <= 2e-6
    for got, wanted in zip(sums, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert error(got, wanted) <= 5e-6


def test_a_variance_that_overflows_is_not_taken_for_none() -> None:
    x = torch.zeros(3, 16)
    x[1, :2] = torch.tensor([1e30, -1e30])
    out = fused.layer_norm(x, (torch.ones(16), torch.zeros(16), 1e-5))
    assert torch.isnan(out).all(dim=1).tolist() == [False, True, False]


def test_gelu_is_as_exact_as_it_says(isa: str) -> None:
    """Relative to GELU itself; far to the left, where GELU is tiny, to half of x, which is GELU's own scale."""
    ends = torch.logspace(-30, 1, 16_000)
    x = torch.cat([torch.linspace(-12, 12, 960_000), ends, -ends])
    exact = x.double() * torch.special.ndtr(x.double())
    out = torch.full_like(x, torch.nan)
    cpu_module.native().gelu(numbers(x), numbers(out), 1, isa)
    scale = torch.where(x > -1e-3, exact.abs(), x.double().abs())
    assert float(((out - exact).abs() / scale.clamp_min(1e-37)).max()) <= 2.5e-7


def test_the_derivative_of_gelu_is_exact_to_3e_7(isa: str) -> None:
    x = torch.linspace(-12, 12, 960_000)
    wide = x.double()
    exact = torch.special.ndtr(wide) + wide * torch.exp(-wide * wide / 2) / (2 * torch.pi) ** 0.5
    grad, again, sums = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan), torch.ones(16)
    ones = torch.ones_like(x)
    arrays = [numbers(t) for t in (x, ones, grad, again, sums)]
    cpu_module.native().gelu_gradients(*arrays, 1, isa)
    assert float((grad - exact).abs().max()) <= 3e-7
    assert error(sums, 1 + exact.view(-1, 16).sum(0)) <= 1e-6
    assert error(again, wide * torch.special.ndtr(wide)) <= 1e-6


def test_gelu_at_the_ends(isa: str) -> None:
    x = torch.tensor([torch.inf, 3e38, 200.0, -200.0, -1e10, torch.nan, 0.0, *(9 * [1.0])])
    out = torch.zeros_like(x)
    cpu_module.native().gelu(numbers(x), numbers(out), 1, isa)
    assert out[:3].tolist() == x[:3].tolist()
    assert out[3:5].tolist() == [0, 0]
    assert bool(torch.isnan(out[5]))
    assert float(out[6]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [16, 48, 96])
def test_kernels_of_every_machine_agree_with_torch(isa: str, dtype: torch.dtype, channels: int) -> None:
    module = cpu_module.native()
    x, grad = (normal(37, channels) + 2).to(dtype), normal(37, channels, seed=1).to(dtype)
    exact = x.double().requires_grad_()
    scale, shift = normal(channels, seed=2), normal(channels, seed=3)
    wide = [t.double().requires_grad_() for t in (scale, shift)]
    expected = F.layer_norm(exact, (channels,), *wide, 1e-5)
    grads = torch.autograd.grad(expected, [exact, *wide], grad.double())
    out, grad_x, again = (torch.full_like(x, torch.nan) for _ in range(3))
    sums = torch.zeros(channels), torch.zeros(channels)
    weights, moments = (numbers(scale), numbers(shift)), numbers(torch.full((74,), torch.nan))
    module.train_norm(numbers(x), numbers(out), *weights, 1e-5, moments, 1, isa)
    outputs = numbers(grad_x), numbers(again), numbers(sums[0]), numbers(sums[1])
    module.train_norm_gradients(numbers(x), numbers(grad), numbers(grad), *weights, moments, *outputs, 1, isa)
    for got, wanted in zip(
        (out, again, grad_x, *sums), (expected, expected, grad + grads[0], *grads[1:]), strict=True
    ):
        assert error(got, wanted.detach()) <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_kernels_of_every_machine_agree_with_torch(isa: str, dtype: torch.dtype) -> None:
    x, grad = normal(3, 4, 5, 48).to(dtype), normal(3, 4, 5, 48, seed=1).to(dtype)
    taps, bias = normal(9, 48, seed=2), normal(48, seed=3)
    wide = [t.double().requires_grad_() for t in (x, taps, bias)]
    inner = F.conv2d(
        wide[0].permute(0, 3, 1, 2), wide[1].t().reshape(48, 1, 3, 3), wide[2], padding=1, groups=48
    )
    expected = F.silu(inner).permute(0, 2, 3, 1)
    grads = torch.autograd.grad(expected, wide, grad.double())
    out, grad_x = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    sums = torch.zeros(9, 48), torch.zeros(48)
    weights = numbers(taps), numbers(bias)
    cpu_module.native().train_depthwise(numbers(x), numbers(out), *weights, 2, isa)
    outputs = numbers(grad_x), *weights, numbers(sums[0]), numbers(sums[1])
    cpu_module.native().train_depthwise_gradients(numbers(x), numbers(grad), *outputs, 2, isa)
    for got, wanted in zip((out, grad_x, *sums), (expected, *grads), strict=True):
        assert error(got, wanted.detach()) <= ROUNDING[dtype]


def test_gradients_do_not_depend_on_the_number_of_threads() -> None:
    x, grad = normal(40_000, 32), normal(40_000, 32, seed=1)
    found = []
    for threads in (1, 3):
        grad_x, sums = torch.empty_like(x), torch.zeros(32)
        arrays = [numbers(t) for t in (x, grad, grad_x)]
        cpu_module.native().gelu_gradients(*arrays, None, numbers(sums), threads)
        found.append((grad_x, sums))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_second_derivatives_are_refused_and_not_wrong() -> None:
    x = normal(3, 4, 4, 16).requires_grad_()
    weight = normal(16, 1, 3, 3)
    out = fused.depthwise_silu(x, weight, None)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_checkpointing_gives_the_same_gradients() -> None:
    x, weight = normal(2, 5, 6, 16).requires_grad_(), normal(16, 1, 3, 3, seed=1).requires_grad_()
    plain = torch.autograd.grad(fused.depthwise_silu(x, weight, None).sum(), [x, weight])
    again = torch.autograd.grad(
        checkpoint(fused.depthwise_silu, x, weight, None, use_reentrant=False).sum(), [x, weight]
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_wrong_arrays_are_refused_before_the_kernel() -> None:
    module, x = cpu_module.native(), numbers(torch.zeros(4, 32))
    with pytest.raises(ValueError, match="whole blocks of 16 channels"):
        module.sum_tokens(x, numbers(torch.zeros(8)), 1)
    short, sums = numbers(torch.zeros(3, 32)), numbers(torch.zeros(32))
    with pytest.raises(ValueError, match="dx has"):
        module.gelu_gradients(x, x, short, None, sums, 1)
    with pytest.raises(ValueError, match="another dtype"):
        module.gelu(x, numbers(torch.zeros(4, 32, dtype=torch.bfloat16)), 1)
