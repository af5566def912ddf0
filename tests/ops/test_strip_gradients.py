"""Scan and gradients of a map in strips are those of the whole map, in torch and with the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from wsi_vmamba.ops import cpu
from wsi_vmamba.ops.strip_gradients import NativeStripScan, StripScan, strip_scan
from wsi_vmamba.ops.strip_reference import ReferenceStripScan

if TYPE_CHECKING:
    from conftest import ScanCase


def learn_in_strips(scan: StripScan, u: Tensor, proj: Tensor, grad_y: Tensor, *, rows: int) -> list[Tensor]:
    """y, and the gradients of u, proj and the weights."""
    strips = list(enumerate(zip(u.split(rows), proj.split(rows), grad_y.split(rows), strict=True)))
    for i, (x, p, _) in strips:
        scan.summarize(x, p, strip=i)
    scan.combine()
    y = [scan.scan(x, p, strip=i) for i, (x, p, _) in strips]
    for i, (x, p, dy) in strips:
        scan.summarize_adjoint(x, p, dy, strip=i)
    scan.combine_adjoint()
    both = [scan.gradients(x, p, dy, strip=i) for i, (x, p, dy) in reversed(strips)]
    to_u, to_proj = (torch.cat(parts[::-1]) for parts in zip(*both, strict=True))
    return [torch.cat(y), to_u, to_proj, *scan.weight_gradients()]


#: (1, height, width, channels, dt rank, states): broken vectors, single rows and columns, several states.
SHAPES = [(1, 9, 14, 40, 3, 1), (1, 5, 9, 19, 2, 3), (1, 1, 37, 24, 2, 1), (1, 37, 1, 24, 2, 1)]


def truth(case: ScanCase) -> list[Tensor]:
    """What the whole map, one image, gives in float64."""
    return [case.y[0], case.grads[0][0], case.grads[1][0], *case.grads[2:]]


@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_whole_map_in_float64(shape: tuple[int, ...], cases, isa: str):
    case = cases(shape)
    u, proj, *parameters = case.inputs
    height, width = u.shape[1:3]
    for rows, threads in ((1, 1), (2, 3)):
        scan = NativeStripScan(
            (parameters[0], parameters[1], parameters[2], parameters[3]), width=width, strips=-(-height // rows),
            threads=threads, isa=isa,
        )  # fmt: skip
        found = learn_in_strips(scan, u[0], proj[0], case.grad_y[0], rows=rows)
        for name, got, expected in zip(
            ("y", "u", "proj", "weight", "bias", "A", "D"), found, truth(case), strict=True
        ):
            assert got.shape == expected.shape, name
            assert (got - expected).abs().max() <= 2e-5 * expected.abs().max(), name


@pytest.mark.parametrize("rows", [2, 4])
def test_torch_equals_the_whole_map_to_twelve_digits(cases, rows: int):
    case = cases((1, 5, 9, 19, 2, 3))
    u, proj, *parameters = (t.double() for t in case.inputs)
    scan = strip_scan(
        (parameters[0], parameters[1], parameters[2], parameters[3]), width=9, strips=-(-5 // rows)
    )
    assert isinstance(scan, ReferenceStripScan)
    for got, expected in zip(
        learn_in_strips(scan, u[0], proj[0], case.grad_y[0].double(), rows=rows), truth(case), strict=True
    ):
        assert (got - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.skipif(not cpu.available, reason=cpu.why)
def test_the_kernels_are_for_float32(cases):
    _, _, *parameters = cases((1, 5, 9, 19, 2, 3)).inputs
    scan = strip_scan((parameters[0], parameters[1], parameters[2], parameters[3]), width=9, strips=2)
    assert isinstance(scan, NativeStripScan)
