"""Inputs of the scans, shared by the tests of the C++ kernels; all of them are left out without the extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from wsi_vmamba.ops import cpu, cpu_module, reference

#: (batch, height, width, channels, dt rank, states): odd lengths, single rows and columns, channels that do not
#: fill a vector, both state sizes of the published models and one between.
SHAPES = [
    (1, 7, 5, 16, 1, 1),
    (2, 9, 14, 40, 3, 1),
    (1, 21, 33, 96, 6, 1),
    (1, 1, 37, 24, 2, 1),
    (1, 37, 1, 24, 2, 1),
    (1, 1, 1, 5, 1, 1),
    (3, 8, 8, 17, 2, 1),
    (2, 6, 17, 24, 3, 16),
    (1, 5, 9, 19, 2, 3),
    (1, 2, 150, 7, 1, 2),
]


@dataclass(frozen=True)
class ScanCase:
    """float32 arguments of ss2d_scan, an output gradient, and the float64 truth for both directions."""

    inputs: tuple[Tensor, ...]
    grad_y: Tensor
    y: Tensor
    grads: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inputs[0].shape)


def scan_inputs(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """(u, proj, dt_weight, dt_bias, A_logs, Ds) with step sizes like those of a trained model."""
    batch, height, width, channels, rank, state = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    return (
        normal(batch, height, width, channels),
        normal(batch, height, width, 4 * (rank + 2 * state)),
        normal(4, channels, rank) * rank**-0.5,
        normal(4, channels) - 2,
        torch.log(torch.arange(1, state + 1.0)) + 0.1 * normal(4 * channels, state),
        normal(4 * channels),
    )


def make_case(shape: tuple[int, ...]) -> ScanCase:
    inputs = scan_inputs(shape)
    grad_y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    exact = [t.double().requires_grad_() for t in inputs]
    y = reference.ss2d_scan(*exact)
    grads = torch.autograd.grad(y, exact, grad_y.double())
    return ScanCase(inputs, grad_y, y.detach(), grads)


@pytest.fixture(scope="session")
def cases() -> Callable[[tuple[int, ...]], ScanCase]:
    """The case of any shape, each made once."""
    return cache(make_case)


@pytest.fixture(scope="session", params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def scan_case(request: pytest.FixtureRequest) -> ScanCase:
    return make_case(request.param)


@pytest.fixture(params=["avx512bf16", "avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> str:
    if not cpu.available:
        pytest.skip(cpu.why)
    if request.param not in cpu.instruction_sets:
        pytest.skip(f"this machine or build has no {request.param}")
    return str(request.param)


@pytest.fixture
def poisoned_scratch() -> Iterator[None]:
    """Every scratch buffer and every new tensor starts as NaN, so that reading before writing shows."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    cpu_module.native().poison_scratch(True)
    yield
    cpu_module.native().poison_scratch(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(deterministic)
