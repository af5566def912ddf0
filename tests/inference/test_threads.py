"""Features do not depend on the number of threads: where sums are rounded follows from the size of the map alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.plan import EncodePlan, count_ranges, plan_encode
from wsi_vmamba.inference.workers import Workers
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

needs_kernels = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

SIZE = (520, 411)
TINY = replace(VARIANTS["vmamba_tiny_s1l8"], depths=(1, 1, 2, 1), num_classes=1)
VANILLA = replace(VARIANTS["vmamba_tiny_v0"], depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), num_classes=1)


def _model(kind: str) -> VMamba:
    if kind == "pico":
        backbone = build_backbone("vmamba_pico")
        assert isinstance(backbone, VMamba)
        return backbone
    torch.manual_seed(5)
    return VMamba({"like tiny_s1l8": TINY, "16 states": VANILLA}[kind]).eval()


def _pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@needs_kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["pico", "like tiny_s1l8", "16 states"])
def test_any_number_of_threads_gives_the_same_bytes(kind: str, precision: str) -> None:
    model, pixels = _model(kind), _pixels()
    alone = StripForward(model, precision=precision, threads=1)(pixels)
    for threads in (2, 3, 7):
        together = StripForward(model, precision=precision, threads=threads)(pixels)
        assert together.tobytes() == alone.tobytes(), threads


@needs_kernels
def test_threads_that_torch_was_told_do_not_matter_either() -> None:
    model, pixels, found = _model("pico"), _pixels(), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(StripForward(model, precision="fp32")(pixels).tobytes())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    height_px=st.integers(32, 12_000),
    width_px=st.integers(32, 12_000),
    workers=st.integers(2, 40),
)
def test_maps_are_cut_alike_for_any_number_of_workers(
    name: str, height_px: int, width_px: int, workers: int
) -> None:
    def plan(count: int) -> EncodePlan:
        return plan_encode(
            VARIANTS[name], height_px=height_px, width_px=width_px, dtype=torch.bfloat16, workers=count
        )

    for alone, together in zip(plan(1).stages, plan(workers).stages, strict=True):
        assert alone.ranges == together.ranges
        assert together.workers <= min(workers, len(together.ranges))


def test_large_maps_keep_a_dozen_threads_busy_and_small_ones_are_not_shredded() -> None:
    config: VMambaConfig = VARIANTS["vmamba_tiny_s1l8"]
    large = plan_encode(config, height_px=10_000, width_px=10_000, dtype=torch.bfloat16, workers=12)
    assert [(stage.workers, len(stage.ranges)) for stage in large.stages] == [
        (12, 24),
        (12, 24),
        (12, 16),
        (8, 8),
    ]
    assert count_ranges(height=16, width=16, d_state=1) == 1
    assert count_ranges(height=2500, width=2500, d_state=16) < count_ranges(
        height=2500, width=2500, d_state=1
    )
    rows = [part.last - part.first for stage in large.stages for part in stage.ranges]
    assert min(rows) >= 8


def test_each_hand_is_in_one_job_at_a_time_and_the_first_error_is_raised() -> None:
    held: set[str] = set()
    done: list[int] = []

    def job(number: int, hand: str) -> None:
        assert hand not in held
        held.add(hand)
        done.append(number)
        held.remove(hand)
        if number == 40:
            raise ValueError("number 40")

    jobs = [lambda hand, number=number: job(number, hand) for number in range(200)]
    with Workers(3) as workers, pytest.raises(ValueError, match="number 40"):
        workers.share(jobs, ["a", "b", "c"])
    assert len(set(done)) == len(done) >= 40


@needs_kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_between_the_passes_changes_no_byte(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much is kept follows from the memory of the maps, which the number of threads has a part in."""
    model, pixels = _model("like tiny_s1l8"), _pixels()
    kept = StripForward(model, precision=precision, threads=2)
    assert any(stage.keep_u for stage in kept.plan(height_px=SIZE[0], width_px=SIZE[1]).stages)
    found = kept(pixels)
    monkeypatch.setattr("wsi_vmamba.inference.plan.with_kept", lambda stage, room, *places: stage)
    computed = StripForward(model, precision=precision, threads=3)
    assert not any(stage.keep_u for stage in computed.plan(height_px=SIZE[0], width_px=SIZE[1]).stages)
    assert computed(pixels).tobytes() == found.tobytes()
