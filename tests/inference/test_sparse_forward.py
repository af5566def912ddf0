"""Only the tissue of a region: equal to the plain model in float64 with the steps of all other tokens set to zero."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from tissue_parts import KINDS, PATCH_PX, PIECES, SMALL, Pixels, draw_pixels, make_model, pooled, tissue_of

from wsi_vmamba.errors import UsageError
from wsi_vmamba.inference import carries
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.scratch import Scratch, open_scratch
from wsi_vmamba.inference.sparse_forward import sparse_disk_bytes
from wsi_vmamba.inference.sparse_plan import plan_sparse
from wsi_vmamba.model.blocks import Block
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu, reference

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")


def on_tokens(tissue: NDArray[np.bool_], height: int) -> Tensor:
    """The tissue as a map of tokens (1, height, width, 1)."""
    each = height // len(tissue)
    return torch.from_numpy(np.kron(tissue, np.ones((each, each))))[None, :, :, None]


@contextmanager
def steps_outside_are_zero(tissue: NDArray[np.bool_]) -> Iterator[None]:
    """Have the reference scan set the step sizes of tokens outside the tissue to zero."""
    scan = reference.selective_scan

    def masked(u: Tensor, delta: Tensor, *given: Any, **options: Any) -> Tensor:
        *values, bias = given
        assert options.pop("delta_softplus") is True
        height = round((delta.shape[-1] * tissue.shape[0] / tissue.shape[1]) ** 0.5)
        orders = reference.cross_scan(on_tokens(tissue, height))  # (1, 4, 1, L)
        mask = orders.expand(-1, -1, delta.shape[1] // 4, -1).reshape(1, -1, delta.shape[-1])
        return scan(u, F.softplus(delta + bias[:, None]) * mask, *values, **options)

    reference.selective_scan = masked
    try:
        yield
    finally:
        reference.selective_scan = scan


def expected(model: VMamba, pixels: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean features of the patches of tissue by the plain model in float64, all of its maps dense."""
    double = VMamba(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))

    def clear(module: object, inputs: object, x: Tensor) -> Tensor:
        return x * on_tokens(tissue, x.shape[1])

    for module in double.modules():
        if isinstance(module, Block):
            module.op.in_proj.register_forward_hook(clear)
            module.register_forward_hook(clear)
    double.patch_embed.register_forward_hook(clear)
    for layer in list(double.layers)[:-1]:
        layer.get_submodule("downsample").register_forward_hook(clear)
    with torch.inference_mode(), steps_outside_are_zero(tissue):
        features = double.forward_features((image - mean) / std)[0].permute(1, 2, 0).numpy()
    tokens = len(features) // len(tissue)
    rows, columns = tissue.shape
    means = features.reshape(rows, tokens, columns, tokens, -1).mean(axis=(1, 3))
    return means[tissue]


def relative(actual: NDArray[Any], wanted: NDArray[Any]) -> float:
    assert actual.shape == wanted.shape
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_vmamba.ops.choose_backend", lambda device, dtype: ("reference", "for the test"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_dense_pass_with_the_steps_outside_set_to_zero(
    kind: str, tmp_path: Path, monkeypatch
) -> None:
    model, tissue = make_model(KINDS[kind]), tissue_of(PIECES)
    pixels = draw_pixels(tissue)
    wanted = expected(model, pixels, tissue)
    monkeypatch.setattr(carries, "_COMBINE_BYTES", 1)  # eight columns at a time
    for strip_rows, threads in ((3, 2),):
        found = pooled(model, pixels, tissue, tmp_path, strip_rows=strip_rows, threads=threads)
        assert relative(found, wanted) < 1e-5


def test_tissue_everywhere_is_the_dense_pass(tmp_path: Path) -> None:
    model, tissue = make_model(SMALL), np.ones((2, 3), bool)
    pixels = draw_pixels(tissue)
    dense = StripForward(model, precision="fp32", threads=1)(pixels)
    means = dense.reshape(2, len(dense) // 2, 3, len(dense) // 2, -1).mean(axis=(1, 3)).reshape(6, -1)
    assert relative(pooled(model, pixels, tissue, tmp_path), means) < 1e-5


def test_glass_changes_nothing_but_what_the_stem_sees(tmp_path: Path) -> None:
    model, tissue = make_model(SMALL), tissue_of(["#..#", ".#.."])
    pixels = draw_pixels(tissue)
    other = pixels.copy()
    other[: PATCH_PX - 8, 2 * PATCH_PX - 8 : 3 * PATCH_PX - 8] = (
        0  # away from the tissue by more than the stem looks
    )
    np.testing.assert_array_equal(
        pooled(model, pixels, tissue, tmp_path), pooled(model, other, tissue, tmp_path)
    )


def test_threads_change_no_byte(tmp_path: Path) -> None:
    model, tissue = make_model(SMALL), tissue_of(PIECES)
    pixels = draw_pixels(tissue)
    one, three = (pooled(model, pixels, tissue, tmp_path, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


class Died(BaseException):
    """The process ends here."""


def test_whoever_dies_is_gone_on_from_with_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tissue = make_model(replace(SMALL, depths=(1, 1, 1))), tissue_of(PIECES)
    pixels = draw_pixels(tissue)
    undisturbed = pooled(model, pixels, tissue, tmp_path)
    write, calls, deaths = Scratch._write, 0, 0

    def deadly(self: Scratch, *values: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 7 == 3:
            raise Died
        write(self, *values)
        if calls % 7 == 6:
            calls += 1
            raise Died

    monkeypatch.setattr(Scratch, "_write", deadly)
    while True:
        try:
            found = pooled(model, pixels, tissue, tmp_path)
            break
        except Died:
            deaths += 1
            assert deaths < 200
    np.testing.assert_array_equal(found, undisturbed)
    assert deaths > 10


def test_the_disk_takes_what_the_tissue_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, peak = Scratch._write, 0

    def watch(self: Scratch, *values: object) -> None:
        nonlocal peak
        write(self, *values)
        peak = max(peak, self.held_bytes())

    monkeypatch.setattr(Scratch, "_write", watch)
    model, tissue = make_model(SMALL), np.zeros((12, 4), bool)
    tissue[::2, 1] = True
    plan = StripForward(model, precision="fp32", threads=1).plan_in_scratch(
        height_px=len(tissue) * PATCH_PX, width_px=4 * PATCH_PX
    )
    pooled(model, draw_pixels(tissue), tissue, tmp_path)
    planned = sparse_disk_bytes(plan_sparse(plan, tissue))
    assert planned / 4 < peak <= planned + 4096  # facts and counts


def test_patches_that_are_not_whole_tokens_are_refused(tmp_path: Path) -> None:
    forward = StripForward(make_model(SMALL), precision="fp32", threads=1)
    pixels = Pixels(torch.zeros(64, 64, 3, dtype=torch.uint8))
    with pytest.raises(UsageError, match="64 x 64 px is not 3 x 3 patches of whole tokens"):
        forward.tissue_in_scratch(
            pixels, np.ones((3, 3), bool), open_scratch(tmp_path, "s0", {}, say=print), report=print
        )
