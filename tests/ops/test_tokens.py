"""Operators around the scan against torch in float64, for each instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import cpu, cpu_module, tokens

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)

FP32, BF16 = torch.float32, torch.bfloat16
#: Rounding of what goes into matrices and comes out, relative to the largest value.
ROUNDING = {FP32: 2e-6, BF16: 2**-6}


@pytest.fixture(params=tokens.instruction_sets)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    cpu_module.native().poison_scratch(True)
    yield
    cpu_module.native().poison_scratch(False)


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected).abs().max() / expected.abs().max())


def norm_of(channels: int, seed: int = 0) -> tokens.NormOf:
    return normal(channels, seed=seed + 50), normal(channels, seed=seed + 51), 1e-5


def normed(x: Tensor, norm: tokens.NormOf) -> Tensor:
    weight, bias, eps = norm
    return F.layer_norm(x.double(), weight.shape, weight.double(), bias.double(), eps)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 24), (32, 32), (48, 1), (96, 72)])
@pytest.mark.parametrize("count", [1, 97, 205])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_matrix_equals_torch(isa: str, inputs: int, outputs: int, count: int, dtype: torch.dtype) -> None:
    x = normal(count, inputs).to(dtype)
    weight, bias = (normal(outputs, inputs, seed=1) / inputs**0.5).to(dtype).float(), normal(outputs, seed=2)
    matrix = tokens.Panels.pack(weight, bias, dtype=dtype, isa=isa)
    got = tokens.linear(x, matrix, out=torch.full((count, outputs), torch.nan), isa=isa)
    assert error(got, F.linear(x.double(), weight.double(), bias.double())) <= 2e-6


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_norm_gate_matrix_and_addition_equal_torch(isa: str, gated: bool, dtype: torch.dtype) -> None:
    x, out = normal(131, 48) + 3, normal(131, 40, seed=1).to(dtype)
    gate = normal(131, 48, seed=2) if gated else None
    weight, norm = (normal(40, 48, seed=3) / 7).to(dtype), norm_of(48)
    expected = normed(x, norm) if gate is None else normed(x, norm) * gate.double()
    expected = out.double() + expected @ weight.double().t()
    matrix = tokens.Panels.pack(weight.float(), None, dtype=dtype, isa=isa)
    tokens.linear(x, matrix, norm=norm, gate=gate, out=out, add=True, isa=isa)
    assert error(out, expected) <= ROUNDING[dtype]


def mlp_alone(x: Tensor, mlp: tokens.Mlp, *, dtype: torch.dtype, isa: str) -> Tensor:
    """The end of a block whose scan adds nothing."""
    nothing = tokens.Panels.pack(torch.zeros(x.shape[1], 16), None, dtype=dtype, isa=isa)
    scanned = torch.zeros(len(x), 16)
    return tokens.add_rest_(x, scanned=scanned, norm=norm_of(16), out_proj=nothing, mlp=mlp, isa=isa)


@pytest.mark.parametrize(("channels", "hidden"), [(16, 64), (32, 128), (96, 112)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_an_mlp_equals_torch(isa: str, channels: int, hidden: int, dtype: torch.dtype) -> None:
    x, norm = normal(203, channels).to(dtype), norm_of(channels)
    w1, b1 = (normal(hidden, channels, seed=1) / channels**0.5).to(dtype).float(), normal(hidden, seed=2)
    w2, b2 = (normal(channels, hidden, seed=3) / hidden**0.5).to(dtype).float(), normal(channels, seed=4)
    inner = F.gelu(F.linear(normed(x, norm), w1.double(), b1.double()))
    expected = x.double() + F.linear(inner, w2.double(), b2.double())
    fc1, fc2 = (tokens.Panels.pack(w, b, dtype=dtype, isa=isa) for w, b in ((w1, b1), (w2, b2)))
    got = mlp_alone(x, tokens.Mlp(norm, fc1, fc2), dtype=dtype, isa=isa)
    assert error(got, expected) <= ROUNDING[dtype]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("count", [1, 95, 96, 203])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_end_of_a_block_is_its_steps_one_after_the_other(
    isa: str, count: int, gated: bool, dtype: torch.dtype
) -> None:
    x, y = normal(count, 32).to(dtype), normal(count, 48, seed=1)
    gate = normal(count, 48, seed=2) if gated else None
    pack = partial(tokens.Panels.pack, dtype=dtype, isa=isa)
    out_proj = pack(normal(32, 48, seed=3), None)
    mlp = tokens.Mlp(
        norm_of(32),
        pack(normal(96, 32, seed=4), normal(96, seed=5)),
        pack(normal(32, 96, seed=6), normal(32, seed=7)),
    )
    expected = x.clone()
    tokens.linear(y, out_proj, norm=norm_of(48), gate=gate, out=expected, add=True, isa=isa)
    mlp_alone(expected, mlp, dtype=dtype, isa=isa)
    got = tokens.add_rest_(x, scanned=y, norm=norm_of(48), out_proj=out_proj, mlp=mlp, gate=gate, isa=isa)
    assert torch.equal(got, expected)


#: For widths of 40 and 300: where runs of columns lie in a window that is wider by one column on either side of each.
RUNS = {40: [(0, 8, 1), (8, 31, 11), (39, 1, 44)], 300: [(0, 300, 1)]}


@pytest.mark.parametrize(("above", "below"), [(1, 0), (2, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize(("count", "width"), [(1, 5), (9, 40), (21, 300), (3, 3000)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_what_the_scan_takes_is_its_steps_one_after_the_other(
    isa: str, count: int, width: int, above: int, below: int, with_bias: bool, dtype: torch.dtype
) -> None:
    x = normal(count + 2 - above - below, width, 16).to(dtype)
    in_proj = tokens.Panels.pack(normal(32, 16, seed=1), None, dtype=dtype, isa=isa)
    x_proj = tokens.Panels.pack(normal(24, 32, seed=2), None, dtype=dtype, isa=isa)
    conv = normal(9, 32, seed=3), normal(32, seed=4) if with_bias else None
    for runs in [None, RUNS[width]] if width in RUNS else [None]:
        wide = width if runs is None else width + 2 * len(runs)
        rows = normal(count + 2, wide, 32, seed=5).to(dtype)
        u, proj = (
            torch.full((count, width, 32), torch.nan, dtype=dtype),
            torch.full((count, width, 24), torch.nan),
        )
        pieces = runs or [(0, width, 0)]
        around, own = rows.clone(), torch.empty(len(x), width, 32, dtype=dtype)
        tokens.linear(x, in_proj, norm=norm_of(16), out=own, isa=isa)
        for first, length, place in pieces:
            around[above : above + len(x), place : place + length] = own[:, first : first + length]
        local = "avx512bf16" if isa == "amx" else isa
        spread = cpu.depthwise_silu(around, *conv, out=torch.empty_like(around[2:]), isa=local)
        expected = torch.cat(
            [spread[:, place : place + length] for _, length, place in pieces], dim=1
        ).contiguous()
        tokens.scan_inputs(
            x,
            norm=norm_of(16),
            in_proj=in_proj,
            rows=rows,
            first=above,
            conv=conv,
            x_proj=x_proj,
            u=u,
            proj=proj,
            runs=None if runs is None else torch.tensor(runs),
            isa=isa,
        )
        assert torch.equal(rows, around)
        assert torch.equal(u, expected)
        assert torch.equal(proj, tokens.linear(expected, x_proj, out=torch.empty_like(proj), isa=isa))


@pytest.mark.parametrize(
    ("runs", "wide"),
    [
        ([(0, 5, 0)], 5),  # not all columns
        ([(0, 40, 0)], 5),
        ([(0, 20, 0), (20, 20, 10)], 60),  # two columns in one place
        ([(0, 20, 1), (20, 20, 21)], 60),  # nothing between them
        ([(20, 20, 0), (0, 20, 20)], 60),
        ([(0, 20, 0), (20, 20, 50)], 60),
        ([(0, 40, 2**62)], 60),
        ([(0, 0, 0), (0, 40, 0)], 60),
        ([], 60),
    ],
)
def test_runs_that_are_not_the_columns_are_refused(runs: list[tuple[int, int, int]], wide: int) -> None:
    in_proj = tokens.Panels.pack(normal(32, 16, seed=1), None, dtype=FP32)
    x_proj = tokens.Panels.pack(normal(24, 32, seed=2), None, dtype=FP32)
    with pytest.raises(ValueError, match="runs must be"):
        tokens.scan_inputs(
            normal(3, 40, 16),
            norm=norm_of(16),
            in_proj=in_proj,
            rows=normal(5, wide, 32),
            first=1,
            conv=(normal(9, 32), None),
            x_proj=x_proj,
            u=normal(3, 40, 32),
            proj=normal(3, 40, 24),
            runs=torch.tensor(runs, dtype=torch.int64).reshape(-1, 3),
        )


@pytest.mark.parametrize("width", [1, 2, 7, 192, 195, 391])
@pytest.mark.parametrize("middle", [0, 1])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_convolution_equals_torch(isa: str, width: int, middle: int, dtype: torch.dtype) -> None:
    rows, norm = normal(6, width, 16).to(dtype), norm_of(32)
    weight, bias = (normal(32, 16, 3, 3, seed=1) / 12).to(dtype).float(), normal(32, seed=2)
    padded = F.pad(rows.double().permute(2, 0, 1)[None], (1, 1, 1 - middle, 1))
    expected = normed(F.conv2d(padded, weight.double(), bias.double(), stride=2)[0].permute(1, 2, 0), norm)
    matrix = tokens.Panels.pack_conv(weight, bias, dtype=dtype, isa=isa)
    out = torch.full(expected.shape, torch.nan, dtype=dtype)
    tokens.conv_norm(rows, matrix, norm, middle=middle, out=out, isa=isa)
    assert error(out, expected) <= ROUNDING[dtype]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 5), (40, 403), (31, 770)])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_stem_equals_torch_whole_and_in_strips(
    isa: str, height: int, width: int, dtype: torch.dtype
) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    centre, fill = torch.tensor([124.0, 116.0, 103.0]), torch.tensor([0.25, -0.5, 0.125])
    w1, b1 = normal(16, 3, 3, 3, seed=1) / 400, normal(16, seed=2)
    w2, b2 = (normal(32, 16, 3, 3, seed=3) / 12).to(dtype).float(), normal(32, seed=4)
    norm1, norm2 = norm_of(16, seed=5), norm_of(32, seed=6)
    image = fill.double().repeat(height + 2, width + 2, 1)
    image[1:-1, 1:-1] = pixels.double() - centre.double()
    inner = F.conv2d(image.permute(2, 0, 1)[None], w1.double(), b1.double(), stride=2)
    inner = F.gelu(normed(inner.permute(0, 2, 3, 1), norm1)).permute(0, 3, 1, 2)
    outer = F.conv2d(inner, w2.double(), b2.double(), stride=2, padding=1)
    expected = normed(outer[0].permute(1, 2, 0), norm2)
    stem = tokens.PixelStem(
        conv1=tokens.Panels.pack_conv(w1, b1, dtype=FP32, isa=isa),
        norm1=norm1,
        conv2=tokens.Panels.pack_conv(w2, b2, dtype=dtype, isa=isa),
        norm2=norm2,
        fill=fill,
        centre=centre,
    )
    out = torch.full(expected.shape, torch.nan, dtype=dtype)
    stem(pixels, top=0, height=height, first=0, out=out, isa=isa)
    assert error(out, expected) <= 2 * ROUNDING[dtype]
    strips = []
    for first, last in pairwise([*range(0, len(out), 3), len(out)]):
        top = max(4 * first - 3, 0)
        piece = torch.empty(last - first, *out.shape[1:], dtype=dtype)
        stem(pixels[top : 4 * last + 1], top=top, height=height, first=first, out=piece, isa=isa)
        strips.append(piece)
    assert torch.equal(torch.cat(strips), out)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_token_depends_on_no_other_and_keeps_its_nan(isa: str, dtype: torch.dtype) -> None:
    x, norm = normal(150, 32).to(dtype), norm_of(32)
    fc1 = tokens.Panels.pack(normal(128, 32, seed=1), normal(128, seed=2), dtype=dtype, isa=isa)
    fc2 = tokens.Panels.pack(normal(32, 128, seed=3), normal(32, seed=4), dtype=dtype, isa=isa)
    mlp = tokens.Mlp(norm, fc1, fc2)
    whole = mlp_alone(x.clone(), mlp, dtype=dtype, isa=isa)
    assert torch.equal(mlp_alone(x[101:].clone(), mlp, dtype=dtype, isa=isa), whole[101:])
    x[99, 3] = torch.nan
    spoilt = mlp_alone(x, mlp, dtype=dtype, isa=isa)
    assert bool(spoilt[99].isnan().all())
    others = torch.arange(150) != 99
    assert torch.equal(spoilt[others], whole[others])


@pytest.mark.parametrize("rough", [False, True])
def test_gelu_is_within_2e_7_of_x_and_before_bfloat16_within_1e_4(isa: str, rough: bool) -> None:
    ends = torch.tensor([0.0, 1e-30, -1e-30, 1e30, -1e30, 6.0, -6.0, 5.5, 4.1, -4.1])
    x = torch.cat([torch.linspace(-12, 12, 2**20), ends])
    x = F.pad(x, (0, -len(x) % 16))
    got = torch.empty_like(x)
    cpu_module.native().gelu_floats(x.numpy(), got.numpy(), rough, isa)
    off = (got.double() - F.gelu(x.double())).abs()
    near = x.abs() < 20
    exact = 2.4e-7 if isa == "baseline" else 2e-7
    before_rounding = 1e-4 if isa in ("avx2", "baseline") else 9e-5
    assert bool((off <= (before_rounding if rough else exact * x.double().abs()))[near].all())
    assert bool((off[~near] <= (2e-6 if rough else 2e-7) * x[~near].double().abs()).all())


def test_tiles_leave_those_of_another_library_as_they_were(isa: str) -> None:
    # oneDNN keeps the shapes of its tile registers from one product to the next.
    x, weight = normal(256, 96).to(BF16), normal(64, 96, seed=1).to(BF16)
    matrix = tokens.Panels.pack(weight.float(), None, dtype=BF16, isa=isa)
    before = F.linear(x, weight)
    got = tokens.linear(x, matrix, out=torch.empty(256, 64), isa=isa)
    assert torch.equal(F.linear(x, weight), before)
    assert error(got, F.linear(x.double(), weight.double())) <= 2e-6


def test_what_lies_in_one_place_is_refused() -> None:
    x, matrix = normal(200, 32), tokens.Panels.pack(normal(32, 32), None, dtype=FP32)
    with pytest.raises(ValueError, match="must not lie where x does"):
        tokens.linear(x, matrix, out=x)
    with pytest.raises(ValueError, match="must not lie where x does"):
        tokens.linear(x[:199], matrix, norm=norm_of(32), out=x[1:])
    before = x.clone()
    expected = tokens.linear(before, matrix, norm=norm_of(32), out=torch.empty_like(x))
    assert torch.equal(tokens.linear(x, matrix, norm=norm_of(32), out=x), expected)


@pytest.mark.parametrize(
    ("first", "top", "height", "rows"),
    [(-2, 0, 40, 2), (2**62, 0, 40, 2), (9, 33, 40, 2), (2, 8, 40, 2), (0, 0, 0, 1)],
)
def test_rows_that_the_stem_cannot_find_are_refused(first: int, top: int, height: int, rows: int) -> None:
    stem = tokens.PixelStem(
        conv1=tokens.Panels.pack_conv(normal(16, 3, 3, 3), normal(16), dtype=FP32),
        norm1=norm_of(16),
        conv2=tokens.Panels.pack_conv(normal(32, 16, 3, 3), normal(32), dtype=FP32),
        norm2=norm_of(32),
        fill=torch.zeros(3),
        centre=torch.zeros(3),
    )
    pixels = torch.zeros(20, 60, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"out must be rows|hold all rows|rows and columns"):
        stem(pixels, top=top, height=height, first=first, out=torch.empty(rows, 15, 32))


def test_wrong_shapes_are_refused() -> None:
    matrix = tokens.Panels.pack(normal(32, 48), None, dtype=FP32)
    with pytest.raises(UsageError, match="out must have shape"):
        tokens.linear(normal(5, 48), matrix, out=torch.empty(5, 31))
    with pytest.raises(UsageError, match="opposite shapes"):
        mlp_alone(normal(5, 48), tokens.Mlp(norm_of(48), matrix, matrix), dtype=FP32, isa="")
    odd = tokens.Panels.pack(normal(32, 40), None, dtype=FP32)
    with pytest.raises(ValueError, match="whole blocks"):
        tokens.linear(normal(5, 40), odd, out=torch.empty(5, 32))
    assert tokens.suits(16, 96)
    assert not tokens.suits(16, 40)
