"""A map in files against the same map in memory: equal bytes for every kind of backbone, and after every death."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsi_vmamba.errors import MemoryLimitError, StoreError
from wsi_vmamba.inference.convolve import RowsInMemory
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.scratch import Scratch, open_scratch, require_space
from wsi_vmamba.inference.scratch_forward import disk_bytes
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

SMALL = VMambaConfig(depths=(1, 2, 1), dims=(16, 24, 56))
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "d_state": 4}
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


def make(config: VMambaConfig, **options: object) -> StripForward:
    torch.manual_seed(3)
    return StripForward(VMamba(config).eval(), **{"precision": "fp32", "threads": 2, **options})


def open_here(folder: Path) -> Scratch:
    return open_scratch(folder, "s0", {"a": 1}, say=lambda text: None)


def encode(forward: StripForward, pixels: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    """Features of a pass in a scratch folder, read two rows at a time."""
    scratch = open_here(folder)
    done = forward.in_scratch(Pixels(pixels), scratch, report=lambda share: None)
    height = forward.plan(height_px=pixels.shape[0], width_px=pixels.shape[1]).stages[-1].height
    rows = [done.feature_rows(row, min(row + 2, height)) for row in range(0, height, 2)]
    scratch.remove()
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_in_files_has_the_bytes_of_one_in_memory(kind: str, tmp_path: Path) -> None:
    for strip_rows, size, precision in (
        (2, (97, 131), "fp32"),
        (3, (200, 70), "bf16"),
    ):
        forward = make(KINDS[kind], strip_rows=strip_rows, precision=precision)
        pixels = draw_pixels(*size)
        np.testing.assert_array_equal(encode(forward, pixels, tmp_path), forward(pixels))
    assert list(tmp_path.iterdir()) == []


def narrow(config: VMambaConfig) -> VMambaConfig:
    """The variant with all that makes its kind, but a quarter as wide and one block a stage."""
    return replace(config, depths=(1,) * len(config.depths), dims=tuple(dim // 4 for dim in config.dims))


def agree_in_files_and_in_memory(config: VMambaConfig, folder: Path) -> None:
    for strip_rows, size in ((2, (96, 160)), (7, (133, 75))):
        forward = make(config, strip_rows=strip_rows)
        pixels = draw_pixels(*size)
        np.testing.assert_array_equal(encode(forward, pixels, folder), forward(pixels))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_table_agrees_in_files_and_in_memory(name: str, tmp_path: Path) -> None:
    agree_in_files_and_in_memory(narrow(VARIANTS[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_at_full_width_and_depth_agrees_in_files_and_in_memory(
    name: str, tmp_path: Path
) -> None:
    agree_in_files_and_in_memory(VARIANTS[name], tmp_path)


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("kind", ["s1", "vanilla"])
def test_whoever_dies_at_any_file_is_gone_on_from_with_equal_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third change of the folder is the last of a process, before it is made or after, until one is through."""
    forward = make(replace(KINDS[kind], depths=(1, 1, 1)), strip_rows=3, threads=1)
    pixels = draw_pixels(120, 70)
    whole = forward(pixels)
    write, drop = Scratch._write, Scratch.drop
    changes, shares, deaths = 0, [], 0

    def die(before: bool) -> None:
        nonlocal changes
        changes += before
        if changes % 12 == (5 if before else 11):
            changes += 1
            raise Died

    def deadly_write(self: Scratch, *values: object) -> None:
        die(before=True)
        write(self, *values)
        die(before=False)

    def deadly_drop(self: Scratch, *values: object) -> None:
        die(before=True)
        drop(self, *values)

    monkeypatch.setattr(Scratch, "_write", deadly_write)
    monkeypatch.setattr(Scratch, "drop", deadly_drop)
    while True:
        try:
            scratch = open_here(tmp_path)
            done = forward.in_scratch(Pixels(pixels), scratch, report=shares.append)
            break
        except Died:
            deaths += 1
            assert deaths < 500
            assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(done.feature_rows(0, len(whole)), whole)
    assert deaths > 10
    assert shares[-1] == pytest.approx(1.0)


def test_what_belongs_to_something_else_is_removed_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    first = open_here(tmp_path)
    first.write("0.map.0", [torch.arange(3)])
    other = open_scratch(tmp_path, "s0", {"a": 2}, say=said.append)
    assert (other.resumed, other.has("0.map.0"), first.folder.exists()) == (False, False, False)
    assert len(said) == 1
    again = open_scratch(tmp_path, "s0", {"a": 2}, say=said.append)
    assert again.resumed
    assert again.folder != other.folder  # whoever was only suspended finds nothing to write into


def test_a_disk_without_room_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    scratch = open_here(tmp_path)
    assert "up to 0.00 GB" in require_space(scratch, 1000)
    with pytest.raises(
        StoreError, match=r"needs 1000000.00 GB of scratch in .* choose a larger disk with --scratch"
    ):
        require_space(scratch, 10**15)


def test_memory_that_is_not_enough_for_the_strips_is_refused(tmp_path: Path) -> None:
    forward = make(SMALL, memory_limit=1)
    with pytest.raises(MemoryLimitError, match="even with its map in files"):
        forward.in_scratch(Pixels(draw_pixels(64, 64)), open_here(tmp_path), report=lambda share: None)


def test_the_disk_takes_no_more_than_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, peak = Scratch._write, 0

    def watch(self: Scratch, *values: object) -> None:
        nonlocal peak
        write(self, *values)
        peak = max(peak, self.held_bytes())

    monkeypatch.setattr(Scratch, "_write", watch)
    forward = make(SMALL, strip_rows=4, threads=1)
    plan = forward.plan_in_scratch(height_px=400, width_px=90)
    scratch = open_here(tmp_path)
    forward.in_scratch(Pixels(draw_pixels(400, 90)), scratch, report=lambda share: None)
    assert disk_bytes(plan) / 2 < peak <= disk_bytes(plan) + 4096  # facts and counts
