"""The scan of volumes against plain loops over tokens in float64, and its kernels against the reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import cpu, ss2d_scan
from wsi_vmamba.ops.volume import reference_ss3d_scan, ss3d_scan

#: (batch, planes, height, width, channels, dt rank, states).
SHAPES = [
    (2, 3, 4, 5, 6, 2, 1),
    (1, 4, 3, 2, 5, 1, 3),
    (1, 1, 5, 7, 16, 2, 1),
    (1, 6, 1, 1, 17, 1, 1),
    (1, 5, 1, 6, 3, 1, 2),
    (2, 2, 7, 1, 20, 3, 16),
]


def inputs_of(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Arguments of the scan in float64."""
    batch, planes, height, width, channels, rank, state = shape
    generator = torch.Generator().manual_seed(7)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    return (
        normal(batch, planes, height, width, channels),
        normal(batch, planes, height, width, 6 * (rank + 2 * state)),
        normal(6, channels, rank) * rank**-0.5,
        normal(6, channels) - 2,
        torch.log(torch.arange(1, state + 1.0, dtype=torch.float64)) + 0.1 * normal(6 * channels, state),
        normal(6 * channels),
    )


def by_hand(inputs: tuple[Tensor, ...]) -> NDArray[np.float64]:
    """Every number by itself, with plain loops and the formulas of the recurrence; nothing of the package."""
    u, proj, weight, bias, logs, skips = (t.detach().numpy() for t in inputs)
    batch, planes, height, width, channels = u.shape
    rank, state = weight.shape[2], logs.shape[1]
    group = rank + 2 * state
    by_w = [(t, h, w) for t in range(planes) for h in range(height) for w in range(width)]
    by_h = [(t, h, w) for w in range(width) for t in range(planes) for h in range(height)]
    by_t = [(t, h, w) for h in range(height) for w in range(width) for t in range(planes)]
    paths = [by_w, by_h, by_w[::-1], by_h[::-1], by_t, by_t[::-1]]
    out = np.zeros_like(u)
    for k, c, b in itertools.product(range(6), range(channels), range(batch)):
        hidden = [0.0] * state
        for place in paths[k]:
            numbers = proj[b, *place, k * group : (k + 1) * group]
            logit = bias[k, c] + sum(weight[k, c, r] * numbers[r] for r in range(rank))
            step = math.log1p(math.exp(logit))
            value = u[b, *place, c]
            total = skips[k * channels + c] * value
            for n in range(state):
                decay = math.exp(-step * math.exp(logs[k * channels + c, n]))
                hidden[n] = decay * hidden[n] + step * numbers[rank + n] * value
                total += numbers[rank + state + n] * hidden[n]
            out[b, *place, c] += total
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference_equals_loops_over_tokens(shape):
    inputs = inputs_of(shape)
    expected = by_hand(inputs)
    for scan in (reference_ss3d_scan, lambda *x: ss3d_scan(*x, backend="reference")):
        np.testing.assert_allclose(scan(*inputs).numpy(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_views_of_the_volume_give_the_gradients_of_the_paths(shape):
    inputs = [t.requires_grad_() for t in inputs_of(shape)]
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad(reference_ss3d_scan(*inputs), inputs, grad)
    got = torch.autograd.grad(ss3d_scan(*inputs, backend="reference"), inputs, grad)
    for mine, its in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_equals_the_reference_with_gradients(shape):
    if not cpu.available:
        pytest.skip(cpu.why)
    exact = [t.requires_grad_() for t in inputs_of(shape)]
    single = [t.detach().float().requires_grad_() for t in exact]
    grad = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, got = reference_ss3d_scan(*exact), ss3d_scan(*single, backend="cpp")
    assert (got - expected).abs().max() <= 3e-6 * expected.abs().max()
    for mine, its in zip(
        torch.autograd.grad(got, single, grad.float()),
        torch.autograd.grad(expected, exact, grad),
        strict=True,
    ):
        assert (mine - its).abs().max() <= 1e-5 * its.abs().max()


def test_the_first_four_paths_of_one_plane_are_a_map():
    u, proj, weight, bias, logs, skips = inputs_of((2, 1, 5, 6, 4, 2, 1))
    proj[..., 4 * 4 :], skips[4 * 4 :] = 0, 0  # B and C and the skip of the paths through the planes
    volume = reference_ss3d_scan(u, proj, weight, bias, logs, skips)
    of_map = ss2d_scan(u[:, 0], proj[:, 0, ..., :16], weight[:4], bias[:4], logs[:16], skips[:16])
    torch.testing.assert_close(volume[:, 0], of_map, rtol=1e-12, atol=1e-12)


def test_shapes_that_do_not_fit_are_refused():
    u, proj, *others = inputs_of((1, 2, 3, 4, 5, 1, 1))
    with pytest.raises(UsageError, match=r"u must be a volume \(B, T, H, W, D\), got \(2, 3, 4, 5\)"):
        ss3d_scan(u[0], proj, *others)
    with pytest.raises(UsageError, match=r"proj must have shape \(1, 2, 3, 4, 18\), got \(1, 2, 3, 4, 17\)"):
        ss3d_scan(u, proj[..., 1:], *others)
