"""The C++ scan against the float64 reference: outputs, every gradient, every instruction set, odd shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from wsi_vmamba import ops
from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.ops import cpu, cpu_module, reference

if TYPE_CHECKING:
    from conftest import ScanCase

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)

#: Largest error over the largest value, by storage of the map.
FORWARD_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-4}
GRADIENT_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 5e-3}
GRADIENT_NAMES = ("u", "proj", "dt_weight", "dt_bias", "A_logs", "Ds")


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    assert bool(torch.isfinite(got).all())
    return float((got.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("threads", [1, 3])
def test_forward_equals_reference(scan_case: ScanCase, isa: str, threads: int) -> None:
    u, proj, *params = scan_case.inputs
    y = cpu.scan_map(u, proj, cpu.pack_scan(*params), threads=threads, isa=isa)
    assert relative_error(y, scan_case.y) <= FORWARD_TOLERANCE[torch.float32]


@pytest.mark.usefixtures("poisoned_scratch")
def test_bfloat16_maps_are_scanned_more_exactly_than_they_are_kept(scan_case: ScanCase, isa: str) -> None:
    u, proj, *params = scan_case.inputs
    rounded = u.bfloat16()
    y = cpu.scan_map(rounded, proj, cpu.pack_scan(*params), isa=isa)
    # Numbers are rounded by up to 2e-3 when they are stored; they are read exactly and scanned ten times as well.
    expected = reference.ss2d_scan(rounded.double(), *(t.double() for t in (proj, *params)))
    assert relative_error(y, expected) <= FORWARD_TOLERANCE[torch.bfloat16]


@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("threads", [1, 3])
def test_each_gradient_equals_reference(scan_case: ScanCase, isa: str, threads: int) -> None:
    u, proj, *params = scan_case.inputs
    weights = cpu.pack_scan(*params)
    grads = cpu.scan_map_gradients(u, proj, weights, scan_case.grad_y, threads=threads, isa=isa)
    for name, got, expected in zip(GRADIENT_NAMES, grads, scan_case.grads, strict=True):
        assert relative_error(got, expected) <= GRADIENT_TOLERANCE[torch.float32], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autograd_reaches_the_kernels(scan_case: ScanCase, dtype: torch.dtype) -> None:
    inputs = [t.clone().requires_grad_() for t in scan_case.inputs]
    u = inputs[0].to(dtype)
    y = ops.ss2d_scan(u, *inputs[1:])
    assert y.dtype == dtype
    assert ops.choose_backend(u.device, u.dtype)[0] == "cpp"
    grads = torch.autograd.grad(y, inputs, scan_case.grad_y.to(dtype))
    for name, got, expected in zip(GRADIENT_NAMES, grads, scan_case.grads, strict=True):
        # With a bf16 map the inputs themselves are rounded, by 2^-9 relative.
        tolerance = GRADIENT_TOLERANCE[dtype] * (1 if dtype == torch.float32 else 4)
        assert relative_error(got, expected) <= tolerance, name


def test_operator_passes_torch_checks() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 3, 4, 6), (1, 3, 4, 12), (4, 6, 1), (4, 6), (24, 1), (24,)]
    inputs = [torch.randn(s, generator=generator, requires_grad=True) for s in shapes]
    torch.library.opcheck(
        torch.ops.wsi_vmamba.ss2d_scan.default, inputs, test_utils=("test_schema", "test_faketensor")
    )
    with torch.no_grad():
        assert torch.equal(ops.ss2d_scan(*inputs), ops.ss2d_scan(*inputs, backend="cpp"))


def test_non_contiguous_and_float64_parameters_are_accepted() -> None:
    inputs = [t.double() for t in _small_inputs()]
    u = inputs[0].float().transpose(1, 2)
    proj = inputs[1].transpose(1, 2)
    got = ops.ss2d_scan(u, proj, *inputs[2:], backend="cpp")
    expected = reference.ss2d_scan(u.double(), proj, *inputs[2:])
    assert relative_error(got, expected) <= 1e-6


def test_float64_maps_go_to_the_reference() -> None:
    name, why = ops.choose_backend(torch.device("cpu"), torch.float64)
    assert name == "reference"
    assert "float64" in why


def test_unknown_backend_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="cpp"):
        ops.ss2d_scan(*_small_inputs(), backend="cuda9")


def test_nan_in_one_token_reaches_every_later_token(isa: str) -> None:
    u, proj, *params = _small_inputs()
    u[0, 1, 2, 3] = torch.nan
    y = cpu.scan_map(u, proj, cpu.pack_scan(*params), isa=isa)
    # Row-forward reaches everything after the token, row-backward everything before: channel 3 is NaN all over.
    assert bool(torch.isnan(y[..., 3]).all())
    others = [c for c in range(u.shape[3]) if c != 3]
    assert bool(torch.isfinite(y[..., others]).all())


def test_nan_in_a_step_size_is_not_hidden(isa: str) -> None:
    u, proj, *params = _small_inputs()
    proj[0, 0, 0, 0] = torch.nan
    y = cpu.scan_map(u, proj, cpu.pack_scan(*params), isa=isa)
    assert bool(torch.isnan(y).all())


def test_extreme_step_sizes_saturate(isa: str) -> None:
    u, proj, dt_weight, dt_bias, A_logs, Ds = _small_inputs()
    for bias in (-300.0, 300.0):
        args = u, proj, dt_weight, torch.full_like(dt_bias, bias), A_logs, Ds
        y = cpu.scan_map(u, proj, cpu.pack_scan(*args[2:]), isa=isa)
        assert relative_error(y, reference.ss2d_scan(*(t.double() for t in args))) <= 1e-6


def test_empty_batch_gives_an_empty_result() -> None:
    u, proj, *params = _small_inputs()
    assert cpu.scan_map(u[:0], proj[:0], cpu.pack_scan(*params)).shape == u[:0].shape


def test_wrong_shapes_are_refused_before_the_kernel() -> None:
    u, proj, *params = _small_inputs()
    weights = cpu.pack_scan(*params)
    with pytest.raises(UsageError, match="proj must have shape"):
        cpu.scan_map(u, proj[..., :-1].contiguous(), weights)
    with pytest.raises(UsageError, match="u must be a contiguous"):
        cpu.scan_map(u.double(), proj, weights)
    with pytest.raises(UsageError, match="A_logs must have shape"):
        cpu.pack_scan(params[0], params[1], params[2][:-1], params[3])
    with pytest.raises(ValueError, match="instruction set"):
        cpu.scan_map(u, proj, weights, isa="mmx")


def test_compiled_module_checks_sizes_itself() -> None:
    u, proj, *params = _small_inputs()
    weights = cpu.pack_scan(*params)
    with pytest.raises(ValueError, match="y has"):
        cpu_module.native().forward(u, proj, *weights.arrays, torch.empty(3), 1)


def _small_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, 4, 5, 20), (1, 4, 5, 16), (4, 20, 2), (4, 20), (80, 1), (80,)]
    return [0.5 * torch.randn(s, generator=generator) for s in shapes]
