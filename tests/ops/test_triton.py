"""The Triton scan: on a CUDA device where there is one, else through Triton's interpreter in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import device_strips, reference, strip_reference, triton_plan
from wsi_vmamba.ops import triton as ours
from wsi_vmamba.ops.triton_plan import Plan, Tiling, make_plan

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402

from wsi_vmamba.ops import (  # noqa: E402
    triton_grad_kernels,
    triton_kernels,
    triton_launch,
    triton_local,
    triton_local_kernels,
)
from wsi_vmamba.ops.triton_kernels import direction_span  # noqa: E402
from wsi_vmamba.ops.triton_tiles import segment_offset, token_offset  # noqa: E402

INTERPRETED = ours.interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
runs_kernels = pytest.mark.skipif(
    ours.unavailable_reason() is not None,
    reason="no CUDA device; test_kernels_in_the_interpreter runs these in a process of its own",
)
SMALL_TILES = Tiling(rows=4, columns=4, channels=16, warps=4)
#: Largest error allowed, relative to the largest value: forward, gradients of the maps, of the parameters.
TOLERANCES = {
    torch.float32: (5e-6, 5e-6, 1e-5),
    torch.float16: (4e-3, 4e-3, 4e-3),
    torch.bfloat16: (1e-2, 1.5e-2, 8e-3),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the device itself")
def test_kernels_in_the_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        __file__,
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.fixture(autouse=True)
def _poisoned_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill scratch with NaN, so that reading what was not written shows."""

    def poisoned(shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.full(shape, torch.nan, dtype=torch.float32, device=device)

    monkeypatch.setattr(triton_launch, "_empty", poisoned)


@pytest.fixture(autouse=True, scope="module")
def _fast_interpreter() -> Iterator[None]:
    """Let the interpreter scan whole slices: it calls the combining function once per ELEMENT otherwise."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime import interpreter

    def scan_slices(self, inputs):
        moved = [np.moveaxis(i.handle.data, self.axis, 0) for i in inputs]
        dtypes = [i.dtype for i in inputs]
        state = [m[0] for m in moved]
        collected = [[s] for s in state]
        for t in range(1, len(moved[0])):
            before = [self.to_tensor(np.ascontiguousarray(s), d) for s, d in zip(state, dtypes, strict=True)]
            new = [self.to_tensor(np.ascontiguousarray(m[t]), d) for m, d in zip(moved, dtypes, strict=True)]
            state = [r.handle.data for r in self.combine_fn.fn(*before, *new)]
            for c, s in zip(collected, state, strict=True):
                c.append(s)
        stacked = [np.ascontiguousarray(np.moveaxis(np.stack(c), 0, self.axis)) for c in collected]
        return [self.to_tensor(s, d) for s, d in zip(stacked, dtypes, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.ScanOps, "generic_scan", scan_slices)
        yield


@dataclass(frozen=True)
class Case:
    batch: int
    height: int
    width: int
    channels: int
    rank: int
    state: int

    def tensors(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.height * 100 + self.width)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        tokens, features = (self.batch, self.height, self.width), 4 * (self.rank + 2 * self.state)
        maps = [normal(*tokens, self.channels).to(dtype), normal(*tokens, features).to(dtype)]
        weight = normal(4, self.channels, self.rank) * self.rank**-0.5
        parameters = [weight, normal(4, self.channels) - 2, normal(4 * self.channels, self.state) * 0.3]
        return [t.to(DEVICE) for t in [*maps, *parameters, normal(4 * self.channels)]]


ODD = Case(batch=1, height=5, width=7, channels=20, rank=2, state=1)
CASES = [
    (ODD, torch.float32),
    (Case(batch=2, height=3, width=6, channels=5, rank=1, state=2), torch.float32),
    (Case(batch=1, height=1, width=9, channels=16, rank=3, state=1), torch.float16),
    (Case(batch=1, height=9, width=1, channels=17, rank=18, state=1), torch.float32),
    (Case(batch=1, height=3, width=5, channels=4, rank=1, state=3), torch.bfloat16),
    pytest.param(
        Case(batch=1, height=4, width=5, channels=6, rank=1, state=16), torch.float32, marks=pytest.mark.slow
    ),
]


def exact(tensors: list[Tensor], gy: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of the reference in float64."""
    inputs = [t.detach().double().requires_grad_() for t in tensors]
    y = reference.ss2d_scan(*inputs)
    if gy is not None:
        y.backward(gy.double())
    return y.detach(), [i.grad for i in inputs if i.grad is not None]


def relative(ours: Tensor, theirs: Tensor) -> float:
    got, truth = ours.detach().double(), theirs.detach()
    return float((got - truth).abs().max() / truth.abs().max())


def run(tensors: list[Tensor], tiling: Tiling | None = SMALL_TILES) -> Tensor:
    out = torch.full_like(tensors[0], torch.nan)
    ours.ss2d_scan_into(*tensors, out=out, tiling=tiling)
    return out


def use_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_plan, "choose_tiling", lambda **_: SMALL_TILES)
    monkeypatch.setattr(triton_plan, "GRADIENT_TILING", SMALL_TILES)


@runs_kernels
@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
def test_output_and_gradients_equal_the_float64_reference(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_tiles(monkeypatch)
    tensors = [t.requires_grad_() for t in case.tensors(dtype)]
    y = ours.ss2d_scan(*tensors)
    gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    y.backward(gy)
    expected, gradients = exact(tensors, gy)
    forward, maps, parameters = TOLERANCES[dtype]
    assert y.dtype == dtype
    assert relative(y.detach(), expected) <= forward
    for i, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        assert relative(tensor.grad, gradient) <= (maps if i < 2 else parameters), f"input {i}"


@runs_kernels
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case(batch=1, height=5, width=7, channels=20, rank=2, state=1), torch.float32),
        (Case(batch=1, height=9, width=3, channels=5, rank=1, state=2), torch.float32),
        (Case(batch=1, height=1, width=1, channels=5, rank=1, state=1), torch.float32),
        (Case(batch=1, height=3, width=6, channels=4, rank=1, state=3), torch.bfloat16),
    ],
    ids=str,
)
def test_a_strip_entered_by_states_equals_the_float64_reference(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_tiles(monkeypatch)
    monkeypatch.setattr(triton_plan, "SCRATCH_LIMIT_BYTES", 1)  # 16 channels at a time
    u, proj, *parameters = case.tensors(dtype)
    weights = (parameters[0], parameters[1], parameters[2], parameters[3])
    shapes = device_strips.state_shapes(weights, width=case.width)
    generator = torch.Generator().manual_seed(4)
    entering = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    y, leaving, decays = strip_reference.walk(
        u[0].double(), proj[0].double(), [t.double() for t in weights], [t.double() for t in entering]
    )
    _, alone, _ = strip_reference.walk(
        u[0].double(), proj[0].double(), [t.double() for t in weights], [0 * t.double() for t in entering]
    )
    found = device_strips.transitions(u[0], proj[0], weights)
    for k in range(4):
        assert found[k].state.dtype == torch.float32
        assert relative(found[k].decay, decays[k]) <= 5e-6, k
        assert relative(found[k].state, alone[k]) <= 5e-6, k
    out = torch.full_like(u[0], torch.nan)
    left = device_strips.scan_strip(u[0], proj[0], weights, entering, out=out)
    assert relative(out, y) <= TOLERANCES[dtype][0]
    in_place = u[0].clone()
    device_strips.scan_strip(in_place, proj[0], weights, entering, out=in_place)
    assert torch.equal(in_place, out)
    for k in range(4):
        assert relative(left[k], leaving[k]) <= 5e-6, k


@runs_kernels
@pytest.mark.parametrize("height_width", [(1, 1), (17, 18)], ids=str)
def test_large_tiles(height_width: tuple[int, int]) -> None:
    tensors = Case(1, *height_width, channels=33, rank=6, state=1).tensors()
    assert (
        relative(run(tensors, tiling=Tiling(rows=16, columns=16, channels=32, warps=8)), exact(tensors)[0])
        <= 1e-6
    )


@runs_kernels
def test_many_chunks_of_carries() -> None:
    tensors = Case(batch=1, height=1, width=130, channels=2, rank=1, state=1).tensors()
    plan = ours.plan_for(tensors[0], tensors[2], tensors[4], tiling=SMALL_TILES)
    assert plan.chunks >= 8
    assert relative(run(tensors), exact(tensors)[0]) <= 1e-5


@runs_kernels
@pytest.mark.parametrize("shift", [-30.0, 40.0], ids=["tiny steps", "huge steps"])
def test_extreme_steps(shift: float) -> None:
    tensors = ODD.tensors()
    tensors[3] = tensors[3] + shift
    result = run(tensors)
    assert result.isfinite().all()
    assert relative(result, exact(tensors)[0]) <= 1e-5


@runs_kernels
def test_channel_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [
        t.requires_grad_() for t in Case(batch=1, height=3, width=4, channels=20, rank=1, state=1).tensors()
    ]
    use_small_tiles(monkeypatch)
    whole = ours.ss2d_scan(*tensors)
    whole_gradients = torch.autograd.grad(whole.sum(), tensors)
    monkeypatch.setattr(triton_plan, "SCRATCH_LIMIT_BYTES", 1)
    assert len(ours.plan_for(tensors[0], tensors[2], tensors[4]).groups()) == 2
    grouped = ours.ss2d_scan(*tensors)
    assert torch.equal(grouped, whole)
    for a, b in zip(torch.autograd.grad(grouped.sum(), tensors), whole_gradients, strict=True):
        assert torch.equal(a, b)


@runs_kernels
def test_strided_maps_and_output_in_place() -> None:
    tensors = ODD.tensors()
    expected = run(tensors)
    wide = torch.randn(*tensors[0].shape[:3], 50, device=DEVICE)
    u = wide[..., 10:30]
    u.copy_(tensors[0])
    proj = tensors[1].transpose(1, 2).contiguous().transpose(1, 2)
    ours.ss2d_scan_into(u, proj, *tensors[2:], out=u, tiling=SMALL_TILES)
    assert torch.equal(u, expected)


@runs_kernels
@pytest.mark.parametrize("variant", ["s1_cl", "v02"])
def test_the_published_block_and_its_gradients(golden: Path, variant: str) -> None:
    check_published_block(golden, variant, channels_first=False)


@runs_kernels
@pytest.mark.parametrize(
    "variant", ["s1", "s2", *(pytest.param(v, marks=pytest.mark.slow) for v in ("z_n16", "v0"))]
)
def test_the_published_blocks_of_the_larger_set(large_golden: Path, variant: str) -> None:
    check_published_block(large_golden, variant, channels_first=variant != "v0")


def check_published_block(golden: Path, variant: str, *, channels_first: bool) -> None:
    with safe_open(golden / "ops_ss2d.safetensors", "pt") as file:
        prefix = f"{variant}."
        data = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
    weights = {k.removeprefix("weights."): v.to(DEVICE) for k, v in data.items() if k.startswith("weights.")}
    weights = {k: v.requires_grad_() for k, v in weights.items()}
    x = data["x"].to(DEVICE).requires_grad_()
    y = published_block(x, weights, channels_first=channels_first)
    assert relative(y.detach().cpu(), data["y"]) <= 1e-5
    y.backward(data["gy"].to(DEVICE))
    assert x.grad is not None
    assert relative(x.grad.cpu(), data["grad_x"]) <= 1e-5
    for name, weight in weights.items():
        assert weight.grad is not None
        assert relative(weight.grad.cpu(), data[f"grad.{name}"]) <= 1e-5, name


def published_block(x: Tensor, w: dict[str, Tensor], *, channels_first: bool) -> Tensor:
    """SS2D around our scan: in_proj, depthwise convolution, SiLU, scan, norm, gate if there is one, out_proj."""
    x = x.permute(0, 2, 3, 1) if channels_first else x
    d_inner = w["conv2d.weight"].shape[0]
    projected = F.linear(x, w["in_proj.weight"])
    u, z = projected[..., :d_inner], projected[..., d_inner:]
    u = F.conv2d(u.permute(0, 3, 1, 2), w["conv2d.weight"], w.get("conv2d.bias"), padding=1, groups=d_inner)
    u = F.silu(u).permute(0, 2, 3, 1)
    proj = F.linear(u, w["x_proj_weight"].flatten(0, 1))
    y = ours.ss2d_scan(u, proj, w["dt_projs_weight"], w["dt_projs_bias"], w["A_logs"], w["Ds"])
    y = F.layer_norm(y, (d_inner,), w["out_norm.weight"], w["out_norm.bias"])
    if z.shape[-1]:
        y = y * F.silu(z)
    y = F.linear(y, w["out_proj.weight"])
    return y.permute(0, 3, 1, 2) if channels_first else y


@runs_kernels
def test_torch_op_contract_checkpointing_and_autocast() -> None:
    tensors = [t.requires_grad_() for t in Case(1, 2, 3, 4, 1, 1).tensors()]
    torch.library.opcheck(torch.ops.wsi_vmamba.ss2d_scan_triton.default, tuple(tensors))
    plain = ours.ss2d_scan(*tensors)
    expected = torch.autograd.grad(plain.square().sum(), tensors)
    from torch.utils.checkpoint import checkpoint

    again = checkpoint(ours.ss2d_scan, *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(again.square().sum(), tensors), expected, strict=True):
        assert torch.equal(a, b)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        mixed = ours.ss2d_scan(tensors[0], tensors[1].bfloat16(), *tensors[2:])
    assert mixed.dtype == torch.float32
    assert relative(mixed, plain.double()) <= 2e-2


@runs_kernels
def test_wrong_inputs_are_refused() -> None:
    tensors = ODD.tensors()
    with pytest.raises(UsageError, match="proj must be"):
        ours.ss2d_scan(tensors[0], tensors[1][..., :-1], *tensors[2:])
    with pytest.raises(UsageError, match="float64"):
        ours.ss2d_scan(*(t.double() for t in tensors))
    with pytest.raises(UsageError, match="out must be"):
        ours.ss2d_scan_into(*tensors, out=tensors[0][..., :3])


@triton.jit
def token_probe(out, batch, row, column, stride_b, stride_h, stride_w):
    tl.store(out, token_offset(batch, row, column, stride_b, stride_h, stride_w))


@triton.jit
def segment_probe(out, span, batch, index, rows, columns, slots, K: tl.constexpr):
    tl.store(out, segment_offset(batch, index, rows, columns, slots, K))
    begin, count = direction_span(K, rows, columns)
    tl.store(span, begin)
    tl.store(span + 1, count)


@runs_kernels
def test_token_offsets_beyond_32_bits() -> None:
    cases = [
        (2, 9_999, 9_998, 2_500, 2_500, 192),  # ratio-2 model, 10,000 squared: past 2^31 and 2^32
        (1, 99_999, 99_999, 100_000, 100_000, 1536),
        (3, 65_535, 65_537, 65_536, 65_536, 1),
        (0, 2**31 - 1, 0, 1, 2, 3),
    ]
    for batch, row, column, height, width, channels in cases:
        strides = (height * width * channels, width * channels, channels)
        out = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        token_probe[(1,)](out, batch, row, column, *strides)
        assert out.item() == batch * strides[0] + row * strides[1] + column * strides[2]


@runs_kernels
def test_segments_fill_the_scratch_once_and_beyond_32_bits() -> None:
    def offset(batch: int, index: int, rows: int, columns: int, slots: int, k: int) -> tuple[int, int, int]:
        out, span = torch.zeros(2, 2, dtype=torch.int64, device=DEVICE)
        segment_probe[(1,)](out, span, batch, index, rows, columns, slots, k)
        return int(out[0]), int(span[0]), int(span[1])

    rows, columns = 6, 4
    found = {
        offset(b, i, rows, columns, 3, k)[0]
        for b in (0, 1)
        for k in range(4)
        for i in range([rows, columns][k % 2])
    }
    assert found == {3 * s for s in range(2 * 2 * (rows + columns))}
    for k in range(4):
        length = [rows, columns][k % 2]
        first, begin, count = offset(0, 0 if k < 2 else length - 1, rows, columns, 1, k)
        assert (first, length) == (begin, count)
    # A slide of 200,000 px a side, tiles of 16 tokens: 50,000 x 3,125 segments a direction, 1,536 channels.
    length = 50_000 * 3_125
    expected = ((4 * length) + 3 * length + (length - 1 - 7)) * 1_536
    assert expected > 2**32
    assert offset(1, 7, length, length, 1_536, 3)[0] == expected


@runs_kernels
def test_rows_that_lie_beyond_32_bits_apart(tmp_path: Path) -> None:
    case = Case(batch=1, height=3, width=5, channels=6, rank=1, state=1)
    tensors = case.tensors()
    expected = run(tensors)
    stride = 2**31 + 64  # elements; the third row begins past 2^32
    size = 2 * stride + 4096
    if DEVICE == "cuda":
        far = torch.empty(size, dtype=torch.float32, device=DEVICE)
    else:  # a sparse file: only the pages that are touched exist
        far = torch.from_file(str(tmp_path / "map"), shared=True, size=size, dtype=torch.float32)
    u = far.as_strided((1, 3, 5, 6), (1, stride, 6, 1))
    proj = far.as_strided((1, 3, 5, 12), (1, stride, 12, 1), storage_offset=64)
    out = far.as_strided((1, 3, 5, 6), (1, stride, 6, 1), storage_offset=256)
    u.copy_(tensors[0])
    proj.copy_(tensors[1])
    ours.ss2d_scan_into(u, proj, *tensors[2:], out=out, tiling=SMALL_TILES)
    assert torch.equal(out, expected)


@runs_kernels
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_norm_gate_and_addition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    x, gate = (torch.randn(7, 40, generator=generator).to(DEVICE, dtype)[:, 3:] for _ in range(2))
    weight, bias, add = (torch.randn(37, generator=generator).to(DEVICE) for _ in range(3))
    normed = F.layer_norm(x.double(), (37,), weight.double(), bias.double(), 1e-5)
    out = torch.empty(7, 37, dtype=dtype, device=DEVICE)
    triton_local.layer_norm(x, weight, bias, eps=1e-5, out=out)
    assert relative(out, normed) <= TOLERANCES[dtype][0]
    added = x.double() + add.double()
    triton_local.layer_norm(x, weight, bias, eps=1e-5, out=out, gate=gate, then_add=add)
    assert relative(out, normed * F.silu(gate.double())) <= TOLERANCES[dtype][0]
    assert relative(x, added) <= TOLERANCES[dtype][0]


@runs_kernels
@pytest.mark.parametrize(("top", "below"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_depthwise_convolution_of_a_strip(top: int, below: int) -> None:
    generator = torch.Generator().manual_seed(3)
    v = torch.randn(5 + top + below, 18, 35, generator=generator).to(DEVICE)
    weight, bias = torch.randn(9, 35, generator=generator).to(DEVICE), torch.randn(35).to(DEVICE)
    kernels = weight.t().reshape(35, 1, 3, 3)
    image = F.pad(v, (0, 0, 0, 0, 1 - top, 1 - below)).permute(2, 0, 1)[None]
    whole = F.conv2d(image.double(), kernels.double(), bias.double(), padding=(0, 1), groups=35)
    expected = F.silu(whole)[0].permute(1, 2, 0)
    out = torch.full((5, 18, 35), torch.nan, device=DEVICE)
    assert relative(triton_local.depthwise_silu(v, weight, bias, top=top, out=out), expected) <= 1e-6
    whole = F.conv2d(image.double(), kernels.double(), padding=(0, 1), groups=35)
    triton_local.depthwise_silu(v, weight, None, top=top, out=out)
    assert relative(out, F.silu(whole)[0].permute(1, 2, 0)) <= 1e-6


def test_plan_splits_channels_when_scratch_is_large() -> None:
    small = make_plan(batch=1, height=56, width=56, channels=96, rank=6, state=1)
    assert list(small.groups()) == [0]
    large = make_plan(batch=1, height=10_000, width=10_000, channels=96, rank=6, state=1)
    assert large.group == 32
    assert [large.group_at(first) for first in large.groups()] == [32, 32, 32]
    uneven = make_plan(batch=1, height=10_000, width=10_000, channels=72, rank=6, state=1)
    assert [uneven.group_at(first) for first in uneven.groups()] == [32, 32, 8]


def test_plan_counts_tiles_and_segments() -> None:
    plan = Plan(2, 33, 20, 5, 1, 1, Tiling(rows=16, columns=8, channels=16, warps=4), 5)
    assert (plan.tiles_h, plan.tiles_w, plan.tiles) == (3, 3, 18)
    assert (plan.length_rows, plan.length_columns, plan.segments) == (99, 60, 318)
    assert plan.chunks * plan.chunk_length >= 99
    with pytest.raises(UsageError, match="power of two"):
        Tiling(rows=3, columns=8, channels=16, warps=4)


# The interpreter forgives what the compiler does not: types, layouts, shapes of products, shared memory.
SCAN_KERNELS = [
    "summary_kernel",
    "chunk_kernel",
    "carry_kernel",
    "enter_kernel",
    "apply_kernel",
    "grad_kernel",
]
KERNELS = [*SCAN_KERNELS, "norm_kernel", "depthwise_kernel"]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler")
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize(
    "kernel",
    [pytest.param(name, marks=pytest.mark.slow) if name == "grad_kernel" else name for name in KERNELS],
)
@pytest.mark.parametrize("tile", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_kernels_compile_for_gpus(
    kernel: str, capability: int, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_kernel(kernel, capability=capability, state=1 if capability == 90 else 4, tile=tile)
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 1000
    # An SM of capability 8.0 gives a block 163 KiB, of 8.6 and 8.9 99 KiB.
    assert compiled.metadata.shared <= 99 * 1024


def compile_kernel(name: str, *, capability: int, state: int, tile: int):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    modules = (triton_kernels, triton_grad_kernels, triton_local_kernels)
    kernel = next(getattr(module, name) for module in modules if hasattr(module, name))
    carries = name in ("chunk_kernel", "carry_kernel", "enter_kernel")
    constants = {
        "N": state,
        "TH": tile,
        "TW": tile,
        "BD": 64 if carries else 32,
        "RP": 16,
        "PRECISION": "tf32",
    }
    constants |= {"VEC": 2, "PACK": 2, "STEPS": 16}
    constants |= {
        "ADJOINT": True,
        "REVERSE": True,
        "GATED": True,
        "ADDS": True,
        "BIASED": True,
        "BT": 2 * tile,
    }
    signature = {}
    for parameter in kernel.arg_names:
        if parameter in constants:
            signature[parameter] = "constexpr"
        elif parameter.removesuffix("_ptr") in ("u", "gy", "proj", "y", "du", "x", "gate", "out", "v"):
            signature[parameter] = "*bf16"
        elif parameter.endswith("_ptr"):
            signature[parameter] = "*fp32"
        else:
            signature[parameter] = "i64" if "stride" in parameter else "i32"
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={k: v for k, v in constants.items() if k in signature}
    )
    options = {"num_warps": 2 if carries else max(1, tile // 2), "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
