"""Plans of the strip encoder: rows covered once, memory that is asked for is memory that is used."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.memory import Arena, carve, layout_bytes, resident_bytes
from wsi_vmamba.inference.plan import EncodePlan, conv_groups, plan_encode, split_rows, stage_shapes
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

needs_kernels = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")


@given(height=st.integers(1, 400), parts=st.integers(1, 20), strip_rows=st.integers(1, 50))
def test_ranges_and_strips_cover_every_row_once_in_order(height: int, parts: int, strip_rows: int) -> None:
    ranges = split_rows(height, parts=parts, strip_rows=strip_rows)
    rows = [row for part in ranges for first, last in part.strips for row in range(first, last)]
    assert rows == list(range(height))
    sizes = [part.last - part.first for part in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert all(2 * (last - first) <= 3 * strip_rows for part in ranges for first, last in part.strips)


@settings(deadline=None)
@given(height_px=st.integers(32, 3000), width_px=st.integers(32, 3000), workers=st.integers(1, 16))
def test_convolutions_cover_every_row_once(height_px: int, width_px: int, workers: int) -> None:
    plan = plan_encode(
        VARIANTS["vmamba_pico"], height_px=height_px, width_px=width_px, dtype=torch.float32, workers=workers
    )
    for stage in plan.stages:
        rows = [row for group in conv_groups(stage) for first, last in group for row in range(first, last)]
        assert rows == list(range(stage.height))


@pytest.mark.parametrize("patch_embed", [1, 2])
@pytest.mark.parametrize("downsample", [1, 2, 3])
@pytest.mark.parametrize("size", [(33, 127), (50, 70)])
def test_shapes_are_those_of_the_model(
    size: tuple[int, int], downsample: Literal[1, 2, 3], patch_embed: Literal[1, 2]
) -> None:
    config = VMambaConfig(
        depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), patch_embed=patch_embed, downsample=downsample
    )
    stages = VMamba(config).forward_stages(torch.zeros(1, 3, *size))
    shapes = stage_shapes(config, height_px=size[0], width_px=size[1])
    assert shapes == [tuple(stage.shape[2:]) for stage in stages]


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("vmamba_tiny_s1l8", torch.bfloat16, 1.9),
        ("vmamba_tiny_s1l8", torch.float32, 3.2),
        ("vmamba_base_s2l15", torch.bfloat16, 3.0),
        ("vmamba_base_s2l15", torch.float32, 5.0),
        ("vmamba_base_v0", torch.bfloat16, 6.0),
    ],
)
def test_a_region_of_ten_thousand_pixels_fits_a_laptop(name: str, dtype: torch.dtype, most: float) -> None:
    plan = plan_encode(VARIANTS[name], height_px=10_000, width_px=10_000, dtype=dtype, workers=2)
    assert plan.total_bytes < most * 1e9


def test_memory_grows_with_pixels() -> None:
    def total(side_px: int) -> int:
        plan = plan_encode(
            VARIANTS["vmamba_tiny_s1l8"], height_px=side_px, width_px=side_px, dtype=torch.float32, workers=2
        )
        return plan.total_bytes

    assert 3.3 < total(10_000) / total(5_000) < 4.2


_MEASURE = """
import sys
import numpy as np
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.memory import peak_resident_bytes, resident_bytes
from wsi_vmamba.model import build_backbone
forward = StripForward(build_backbone("vmamba_pico"), precision=sys.argv[1], threads=2)
forward(np.zeros((64, 64, 3), np.uint8))
pixels = np.zeros((2048, 3072, 3), np.uint8)
before = resident_bytes()
forward(pixels)
print(peak_resident_bytes() - before - pixels.nbytes, forward.plan(height_px=2048, width_px=3072).total_bytes)
"""


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_plan_is_an_upper_bound_that_is_not_idle(precision: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, precision], capture_output=True, text=True, check=True, timeout=120
    )
    used, planned = map(int, done.stdout.split())
    assert 0.4 * planned < used <= planned


@needs_kernels
def test_what_cannot_fit_is_refused_with_a_size_that_does() -> None:
    model = VMamba(VARIANTS["vmamba_pico"])
    limit = resident_bytes() + 300 * 2**20
    forward = StripForward(model, precision="fp32", threads=2, memory_limit=limit)
    pixels = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (10_000, 10_000, 3))
    before = resident_bytes()
    with pytest.raises(MemoryLimitError, match=r"10000 x 10000 px needs .* GB.*--region-px \d+") as caught:
        forward(pixels)
    assert resident_bytes() - before < 50 * 2**20
    side_px = int(str(caught.value).split("--region-px ")[1].split()[0])
    assert 1024 <= side_px < 10_000
    assert forward.plan(height_px=side_px, width_px=side_px).total_bytes < 300 * 2**20


def test_spare_memory_keeps_the_scan_input_of_the_first_stage_and_moves_no_cut() -> None:
    def plan(spare_bytes: int) -> EncodePlan:
        return plan_encode(
            VARIANTS["vmamba_pico"],
            height_px=2048,
            width_px=2048,
            dtype=torch.float32,
            workers=1,
            spare_bytes=spare_bytes,
        )

    lean, roomy = plan(0), plan(256 << 20)
    assert (lean.stages[0].keep_u, roomy.stages[0].keep_u, roomy.stages[0].keep_proj) == (False, True, True)
    assert [stage.ranges for stage in roomy.stages] == [stage.ranges for stage in lean.stages]
    # x and u: 512 x 512 tokens of 32 numbers each; proj: 16 numbers.
    assert roomy.map_bytes == 512 * 512 * (32 + 32 + 16) * 4
    assert plan(60 << 20).stages[0].keep_u is False


@needs_kernels
def test_what_is_spared_is_used_only_where_it_is_free() -> None:
    model = VMamba(VARIANTS["vmamba_pico"])
    free = StripForward(model, precision="fp32", threads=1)
    assert free.plan(height_px=2048, width_px=2048).stages[0].keep_u
    least = plan_encode(
        VARIANTS["vmamba_pico"], height_px=2048, width_px=2048, dtype=torch.float32, workers=1
    ).total_bytes
    tight = StripForward(
        model, precision="fp32", threads=1, memory_limit=resident_bytes() + least + (8 << 20)
    )
    assert not tight.plan(height_px=2048, width_px=2048).stages[0].keep_u


@needs_kernels
def test_a_limit_below_what_is_used_already_fits_nothing() -> None:
    forward = StripForward(VMamba(VARIANTS["vmamba_pico"]), precision="fp32", memory_limit=1)
    with pytest.raises(MemoryLimitError, match="no region would fit"):
        forward(np.zeros((64, 64, 3), np.uint8))


@needs_kernels
def test_a_region_without_a_token_is_refused() -> None:
    config = VMambaConfig(depths=(1, 1), dims=(8, 8), downsample=2)
    with pytest.raises(UsageError, match="too small"):
        StripForward(VMamba(config), precision="fp32")(np.zeros((3, 40, 3), np.uint8))


def test_carved_tensors_do_not_overlap() -> None:
    layout = {"a": ((3, 5), torch.float32), "b": ((0, 5), torch.float32), "c": ((7,), torch.bfloat16)}
    tensors = carve(Arena().take(layout_bytes(layout)), layout)
    for value, tensor in enumerate(tensors.values()):
        tensor.fill_(value)
    for value, (name, (shape, dtype)) in enumerate(layout.items()):
        assert (tuple(tensors[name].shape), tensors[name].dtype) == (shape, dtype)
        assert bool((tensors[name] == value).all())


def test_arena_keeps_its_block_until_more_is_asked_for() -> None:
    arena = Arena()
    first = arena.take(1000)
    first.fill_(7)
    assert bool((arena.take(500) == 7).all())
    assert arena.take(3 * 2**20).numel() == 3 * 2**20
    assert arena.held_bytes == 3 * 2**20
