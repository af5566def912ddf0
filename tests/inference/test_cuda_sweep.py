"""A map that passes through a device in strips against the whole map: on a GPU where there is one, else CPU tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsi_vmamba.errors import MemoryLimitError, StoreError
from wsi_vmamba.inference import cuda_encoder, cuda_plan
from wsi_vmamba.inference.convolve import RowsInMemory
from wsi_vmamba.inference.cuda_encoder import CudaEncoder
from wsi_vmamba.inference.cuda_forward import CudaForward
from wsi_vmamba.inference.cuda_plan import device_bytes, plan_sweep
from wsi_vmamba.inference.cuda_sweep import CudaSweep
from wsi_vmamba.inference.cuda_transfers import Downloads, Uploads
from wsi_vmamba.inference.scratch import Scratch, open_scratch
from wsi_vmamba.inference.workers import Profile, Workers
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import triton, triton_plan
from wsi_vmamba.ops.triton_plan import Tiling

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = VMambaConfig(depths=(1, 2), dims=(16, 24))
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "d_state": 2}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "vanilla": replace(SMALL, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
}


class Pixels(RowsInMemory):
    """Pixels of an array; only what was asked for last is there."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__(torch.from_numpy(pixels))
        self.at_hand = (0, 0)

    def advance(self, first: int, last: int) -> None:
        assert max(first, 0) >= self.at_hand[0]
        self.at_hand = (max(first, 0), min(last, self.height))

    def rows(self, first: int, last: int) -> torch.Tensor:
        assert self.at_hand[0] <= first
        assert last <= self.at_hand[1]
        return super().rows(first, last)


def draw_pixels(height_px: int, width_px: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height_px * width_px)
    return rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def build(config: VMambaConfig) -> VMamba:
    torch.manual_seed(3)
    model = VMamba(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no zeros and no ones: a forgotten bias or weight must show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def truth(model: VMamba, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features of the plain module, the whole map at once, in float64."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = (torch.from_numpy(pixels).double() / 255 - mean) / std
    with torch.inference_mode():
        features = model.double().forward_features(x.permute(2, 0, 1)[None])[0]
    return features.permute(1, 2, 0).numpy()


def open_here(folder: Path) -> Scratch:
    return open_scratch(folder, "s0", {"a": 1}, say=lambda text: None)


def sweep(
    model: VMamba, pixels: NDArray[np.uint8], folder: Path, *, dtype: torch.dtype, strip_rows: int
) -> NDArray[np.float64]:
    """Features of a pass in strips of so many rows in every stage, read two rows at a time."""
    forward = CudaForward(model, device=DEVICE, dtype=dtype)
    rows = [strip_rows] * len(model.config.depths)
    height, width = pixels.shape[:2]
    plan = plan_sweep(
        model.config, height_px=height, width_px=width, dtype=dtype, free_bytes=1 << 40, strip_rows=rows
    )
    scratch = open_here(folder)
    shares: list[float] = []
    done = CudaSweep(forward, plan, scratch, profile=Profile(), report=shares.append)
    with torch.inference_mode(), Workers(1) as workers:
        done.run(Pixels(pixels), workers)
    assert shares[-1] == pytest.approx(1.0)
    last = plan.stages[-1].height
    features = np.concatenate([done.feature_rows(row, min(row + 2, last)) for row in range(0, last, 2)])
    scratch.remove()
    return features


def relative(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("kind", "strip_rows"), [*((kind, 3) for kind in KINDS), ("s1", 1), ("s1", 100)])
def test_strips_of_any_height_give_the_features_of_the_whole_map(
    kind: str, strip_rows: int, tmp_path: Path
) -> None:
    model, pixels = build(KINDS[kind]), draw_pixels(33, 26)
    single = sweep(model, pixels, tmp_path, dtype=torch.float32, strip_rows=strip_rows)
    double = sweep(model, pixels, tmp_path, dtype=torch.float64, strip_rows=strip_rows)
    expected = truth(model, pixels)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert relative(double, expected) <= 1e-10
    assert relative(single, expected) <= 1e-5
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_near(tmp_path: Path) -> None:
    model, pixels = build(SMALL), draw_pixels(33, 26)
    found = sweep(model, pixels, tmp_path, dtype=torch.bfloat16, strip_rows=3)
    expected = truth(model, pixels)
    assert np.abs(found - expected).mean() <= 0.03 * np.abs(expected).mean()


def narrow(config: VMambaConfig) -> VMambaConfig:
    """The variant with all that makes its kind, but an eighth as wide and one block a stage."""
    return replace(config, depths=(1,) * len(config.depths), dims=tuple(dim // 8 for dim in config.dims))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_table_agrees_with_the_whole_map(name: str, tmp_path: Path) -> None:
    model, pixels = build(narrow(VARIANTS[name])), draw_pixels(70, 53)
    for strip_rows in (2, 5):
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            found = sweep(model, pixels, tmp_path, dtype=dtype, strip_rows=strip_rows)
            assert relative(found, truth(model, pixels)) <= tolerance


runs_kernels = pytest.mark.skipif(
    triton.unavailable_reason() is not None,
    reason="no CUDA device; test_the_kernels_in_the_interpreter runs this in a process of its own",
)


@runs_kernels
def test_a_small_pass_with_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Tiling(rows=4, columns=4, channels=16, warps=4)
    monkeypatch.setattr(triton_plan, "choose_tiling", lambda **_: small)
    model = build(replace(SMALL, depths=(1,), dims=(8,), gated=True, d_state=2))
    pixels = draw_pixels(24, 20)
    found = sweep(model, pixels, tmp_path, dtype=torch.float32, strip_rows=2)
    assert relative(found, truth(model, pixels)) <= 1e-5


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the device itself")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "with_the_kernels",
        __file__,
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


class Died(BaseException):
    """The process ends here."""


def test_whoever_dies_at_any_file_is_gone_on_from_with_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written and removed in threads: each change of the folder may be the last that a process makes."""
    model, pixels = build(replace(SMALL, depths=(1, 1), d_state=2)), draw_pixels(30, 14)
    monkeypatch.setattr(cuda_plan, "STRIP_TARGET_BYTES", 20_000)
    encoder = CudaEncoder("x", model, precision="fp32", device=str(DEVICE))
    rows = [stage.strip_rows for stage in encoder._plan_sweep(height_px=30, width_px=14).stages]
    assert rows[0] < 4
    whole = encoder.sweep(Pixels(pixels), open_here(tmp_path / "alone"), report=print)(0, 4)
    write, drop = Scratch._write, Scratch.drop
    moments, deaths, last_moment = 0, 0, 5

    def die() -> None:
        """Before a change or after it; a first pass that dies begins anew, so lives get longer."""
        nonlocal moments
        moments += 1
        if moments == last_moment:
            raise Died

    def deadly_write(self: Scratch, *values: object) -> None:
        die()
        write(self, *values)
        die()

    def deadly_drop(self: Scratch, *values: object) -> None:
        die()
        drop(self, *values)

    monkeypatch.setattr(Scratch, "_write", deadly_write)
    monkeypatch.setattr(Scratch, "drop", deadly_drop)
    while True:
        try:
            # Whoever goes on cuts the maps as they were cut, however much is free by then.
            scratch = open_here(tmp_path / "dying")
            monkeypatch.setattr(cuda_plan, "STRIP_TARGET_BYTES", 20_000 + 1_000 * deaths)
            found = encoder.sweep(Pixels(pixels), scratch, report=lambda share: None)
            break
        except Died:
            deaths += 1
            assert deaths < 100
            moments, last_moment = 0, 5 + deaths
            assert len(list((tmp_path / "dying").iterdir())) == 1
    np.testing.assert_array_equal(found(0, 4), whole)
    assert deaths > 10


def test_a_disk_that_refuses_a_strip_ends_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = CudaEncoder("x", build(SMALL), precision="fp32", device=str(DEVICE))
    write = Scratch._write

    def refuse(self: Scratch, name: str, pieces: Sequence[memoryview]) -> None:
        if name == "1.map.0":  # from a thread, in the second pass
            raise self.failure(OSError(28, "No space left on device"))
        write(self, name, pieces)

    monkeypatch.setattr(Scratch, "_write", refuse)
    with pytest.raises(StoreError, match="No space left"):
        encoder.sweep(Pixels(draw_pixels(30, 22)), open_here(tmp_path), report=lambda share: None)


def test_the_disk_takes_no_more_than_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, peak = Scratch._write, 0

    def watch(self: Scratch, *values: object) -> None:
        nonlocal peak
        write(self, *values)
        peak = max(peak, self.held_bytes())

    monkeypatch.setattr(Scratch, "_write", watch)
    monkeypatch.setattr(cuda_plan, "STRIP_TARGET_BYTES", 100_000)
    encoder = CudaEncoder("x", build(SMALL), precision="fp32", device=str(DEVICE))
    encoder.sweep(Pixels(draw_pixels(120, 22)), open_here(tmp_path), report=lambda share: None)
    said = encoder.scratch_bytes(height_px=120, width_px=22)
    assert said / 3 < peak <= said + 4096  # facts and counts


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_strips_are_as_tall_as_memory_allows_and_no_taller_than_is_useful(precision: str) -> None:
    config, dtype = VARIANTS["vmamba_tiny_s1l8"], {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    sides = {"height_px": 65_000, "width_px": 100_000, "dtype": dtype}
    plans = [plan_sweep(config, free_bytes=gb * 10**9, **sides) for gb in (2, 8, 80)]
    heights = [plan.stages[0].strip_rows for plan in plans]
    assert heights[0] < heights[1] == heights[2]
    for plan, gb in zip(plans, (2, 8, 80), strict=True):
        assert device_bytes(plan, d_state=1) <= min(gb * 10**9, 3 * 10**9)
        assert sum(last - first for first, last in plan.stages[0].ranges[0].strips) == 16_250
    # Twice as high costs no more, twice as wide no more than twice: strips are flatter.
    higher = plan_sweep(config, free_bytes=8 * 10**9, **{**sides, "height_px": 130_000})
    assert device_bytes(higher, d_state=1) <= 1.05 * device_bytes(plans[1], d_state=1)
    with pytest.raises(
        MemoryLimitError, match=r"100000 x 65000 px needs 0\.\d GB of device memory even in strips"
    ):
        plan_sweep(config, free_bytes=10**8, **sides)


def test_too_little_memory_is_refused_before_the_first_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread(Pixels):
        def rows(self, first: int, last: int) -> torch.Tensor:
            raise AssertionError

    encoder = CudaEncoder("x", build(SMALL), precision="fp32", device=str(DEVICE), memory_limit=10**5)
    pixels = Unread(draw_pixels(300, 220))
    with pytest.raises(MemoryLimitError, match="of device memory even in strips"):
        encoder.sweep(pixels, open_here(tmp_path), report=print)
    encoder = CudaEncoder("x", build(SMALL), precision="fp32", device=str(DEVICE))
    monkeypatch.setattr(cuda_encoder, "free_bytes", lambda limit: 1000)
    with pytest.raises(MemoryLimitError, match="of memory beside the GPU's"):
        encoder.sweep(pixels, open_here(tmp_path), report=print)


def test_sets_arrive_in_order_and_stay_until_the_next_is_taken() -> None:
    layout = {"a": ((4,), torch.int64)}
    uploads = Uploads(layout, [lambda host, i=i: host["a"].fill_(i) for i in range(7)], device=DEVICE)
    kept: list[list[int]] = []
    downloads = Downloads(layout, device=DEVICE)
    for i in range(7):
        found = uploads.take()["a"]
        assert found.tolist() == [i] * 4
        downloads.send({"a": found[: 1 + i % 4]}, lambda host: kept.append(host["a"].tolist()))
        found.fill_(-1)  # what was sent may be changed
    downloads.drain()
    uploads.close()
    downloads.close()
    assert kept == [[i] * (1 + i % 4) for i in range(7)]


def test_what_fails_in_a_thread_is_raised_to_who_waits_for_it() -> None:
    def fail(host: dict[str, torch.Tensor]) -> None:
        raise StoreError("made up")

    layout = {"a": ((4,), torch.int64)}
    uploads = Uploads(layout, [fail], device=DEVICE)
    with pytest.raises(StoreError, match="made up"):
        uploads.take()
    uploads.close()
    downloads = Downloads(layout, device=DEVICE)
    downloads.send({"a": torch.zeros(4, dtype=torch.int64, device=DEVICE)}, fail)
    with pytest.raises(StoreError, match="made up"):
        downloads.drain()
    downloads.close()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")
def test_the_device_memory_that_was_said_is_enough(tmp_path: Path) -> None:
    encoder = CudaEncoder("x", build(VARIANTS["vmamba_tiny_s1l8"]), precision="bf16", device="cuda")
    pixels = Pixels(draw_pixels(3000, 5000))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    encoder.sweep(pixels, open_here(tmp_path), report=lambda share: None)
    plan = encoder._plan_sweep(height_px=3000, width_px=5000)
    assert torch.cuda.max_memory_allocated() - before <= device_bytes(plan, d_state=1)
