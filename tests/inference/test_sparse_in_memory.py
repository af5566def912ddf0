"""The tissue of a region with its maps in memory: the bytes of the same in files, and no more memory than planned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent))

from tissue_parts import KINDS, PATCH_PX, PIECES, SMALL, Pixels, draw_pixels, make_model, pooled, tissue_of

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.inference import encoder
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.memory import resident_bytes
from wsi_vmamba.inference.sparse_plan import SparseStage, keep_inputs, plan_sparse
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

SHAPES = {
    "one patch": ["...", ".#.", "..."],
    "a corner": ["#"],
    "diagonal": ["#....", ".#...", "..#..", "...#."],
    "holes": ["#####", "#...#", "#.#.#", "#####"],
    "columns that come and go": ["####", "#.#.", ".#.#", "..##", "#...", "####"],
    "pieces": PIECES,
}


def in_memory(
    model: VMamba, pixels: NDArray[np.uint8], tissue: NDArray[np.bool_], **options: object
) -> NDArray[np.float32]:
    forward = StripForward(model, **{"precision": "fp32", "threads": 1, **options})
    shares: list[float] = []
    features = forward.pool_tissue(Pixels(torch.from_numpy(pixels)), tissue, report=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    return features


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_and_files_give_the_same_bytes(precision: str, shape: str, tmp_path: Path) -> None:
    model, tissue = make_model(SMALL), tissue_of(SHAPES[shape])
    pixels = draw_pixels(tissue)
    for strip_rows in (None, 3):
        options = {"precision": precision, "strip_rows": strip_rows}
        files = pooled(model, pixels, tissue, tmp_path, **options)
        np.testing.assert_array_equal(in_memory(model, pixels, tissue, **options), files)
        np.testing.assert_array_equal(in_memory(model, pixels, tissue, threads=3, **options), files)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_and_files_give_the_same_bytes_for_each_kind_of_backbone(kind: str, tmp_path: Path) -> None:
    model, tissue = make_model(KINDS[kind]), tissue_of(PIECES)
    pixels = draw_pixels(tissue)
    np.testing.assert_array_equal(in_memory(model, pixels, tissue), pooled(model, pixels, tissue, tmp_path))


def kept_of(stages: tuple[SparseStage, ...]) -> list[tuple[bool, bool]]:
    return [(stage.dense.keep_u, stage.dense.keep_proj) for stage in stages]


def test_what_is_kept_between_the_passes_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tissue = make_model(SMALL), tissue_of(PIECES)
    pixels = draw_pixels(tissue)
    plan = StripForward(model, precision="fp32", threads=1).plan_in_scratch(
        height_px=pixels.shape[0], width_px=pixels.shape[1]
    )
    stages = plan_sparse(plan, tissue)
    features = []
    x_and_u = stages[0].tokens * (stages[0].dense.d_model + stages[0].dense.d_inner) * 4
    wanted = {
        0: [(False, False), (True, True), (True, True)],
        x_and_u: [(True, False), (True, True), (True, True)],
        256 << 20: [(True, True)] * 3,
    }
    for spare_bytes, kept in wanted.items():
        assert kept_of(keep_inputs(stages, spare_bytes=spare_bytes)) == kept
        monkeypatch.setattr(encoder, "SPARE_BYTES", spare_bytes)
        features.append(in_memory(model, pixels, tissue))
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])
    # Nothing kept in any stage: the second pass computes all again, while the map changes beneath it.
    monkeypatch.setattr(encoder, "keep_inputs", lambda stages, spare_bytes=0: stages)
    np.testing.assert_array_equal(in_memory(model, pixels, tissue), features[0])


def test_an_encoder_that_is_used_again_gives_the_same(tmp_path: Path) -> None:
    model = make_model(SMALL)
    forward = StripForward(model, precision="fp32", threads=1)
    for shape in ("pieces", "one patch", "holes"):
        tissue = tissue_of(SHAPES[shape])
        pixels = draw_pixels(tissue)
        found = forward.pool_tissue(Pixels(torch.from_numpy(pixels)), tissue, report=lambda share: None)
        np.testing.assert_array_equal(found, pooled(model, pixels, tissue, tmp_path))


class Untouched(Pixels):
    def advance(self, first: int, last: int) -> None:
        raise AssertionError("pixels were read")


def test_what_does_not_fit_is_refused_before_anything_is_read() -> None:
    limit = resident_bytes() + 100 * 2**20
    forward = StripForward(make_model(SMALL), precision="fp32", threads=1, memory_limit=limit)
    pixels = Untouched(torch.zeros(1, 1, 3, dtype=torch.uint8).expand(8192, 8192, 3))
    tissue = np.ones((8192 // PATCH_PX,) * 2, bool)
    with pytest.raises(
        MemoryLimitError, match=r"the tissue of a region of 8192 x 8192 px needs \S+ GB in memory"
    ):
        forward.pool_tissue(pixels, tissue, report=print)


def test_without_room_to_spare_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tissue = np.ones((40, 40), bool)
    model = make_model(SMALL)
    forward = StripForward(model, precision="fp32", threads=1)
    stages = plan_sparse(forward.plan_in_scratch(height_px=1280, width_px=1280), tissue)
    least, most = (
        encoder.tissue_memory_bytes(keep_inputs(stages, spare_bytes=spare)) for spare in (0, 256 << 20)
    )
    assert most - least > 10 << 20
    monkeypatch.setattr(forward, "_allowed_bytes", lambda: (least + most) // 2)
    forward.pool_tissue(Pixels(torch.from_numpy(draw_pixels(tissue))), tissue, report=lambda share: None)
    assert forward._maps.held_bytes == encoder.tissue_maps_bytes(keep_inputs(stages))


def test_patches_that_are_not_whole_tokens_are_refused() -> None:
    forward = StripForward(make_model(SMALL), precision="fp32", threads=1)
    pixels = Untouched(torch.zeros(64, 64, 3, dtype=torch.uint8))
    with pytest.raises(UsageError, match="64 x 64 px is not 3 x 3 patches of whole tokens"):
        forward.pool_tissue(pixels, np.ones((3, 3), bool), report=print)


_MEASURE = """
import sys
import numpy as np
import torch
from wsi_vmamba.inference.convolve import RowsInMemory
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.memory import peak_resident_bytes, resident_bytes
from wsi_vmamba.inference.sparse_in_memory import tissue_memory_bytes
from wsi_vmamba.inference.sparse_plan import keep_inputs, plan_sparse
from wsi_vmamba.model import build_backbone
class Pixels(RowsInMemory):
    def advance(self, first, last):
        pass
def run(rows, columns):
    tissue = np.ones((rows, columns), bool)
    tissue[1::3, ::2] = False
    pixels = Pixels(torch.zeros(256 * rows, 256 * columns, 3, dtype=torch.uint8))
    before = resident_bytes()
    forward.pool_tissue(pixels, tissue, report=lambda share: None)
    plan = forward.plan_in_scratch(height_px=256 * rows, width_px=256 * columns)
    kept = keep_inputs(plan_sparse(plan, tissue), spare_bytes=256 << 20)
    return peak_resident_bytes() - before, tissue_memory_bytes(kept)
forward = StripForward(build_backbone("vmamba_pico"), precision=sys.argv[1], threads=2)
run(1, 1)
print(*run(10, 14))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_plan_is_an_upper_bound_that_is_not_idle(precision: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, precision], capture_output=True, text=True, check=True, timeout=120
    )
    used, planned = map(int, done.stdout.split())
    assert 0.4 * planned < used <= planned
