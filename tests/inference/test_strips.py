"""The strip encoder against the plain model: same features for every variant, strip height and odd size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.linear import PackedLinear
from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.model.normalise import IMAGENET_MEAN, IMAGENET_STD
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")

SMALL = VMambaConfig(depths=(1, 2, 1), dims=(16, 24, 56))
VANILLA = {"gated": True, "conv_bias": True, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "d_state": 4}
KINDS = {
    "s1": SMALL,
    "s2": replace(SMALL, ssm_ratio=2.0),
    "gated with 16 states": replace(SMALL, gated=True, d_state=16, conv_bias=True),
    "vanilla": replace(SMALL, **VANILLA),
    "2x2 downsampling": replace(SMALL, downsample=2),
    "widths that do not shrink in place": replace(SMALL, dims=(16, 80, 112)),
    "shared directions": replace(SMALL, share_directions=True),
}
SIZES = ((64, 96), (97, 131), (33, 250), (16, 16))


def _pixels(height_px: int, width_px: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height_px * width_px)
    return rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


@cache
def _model(config: VMambaConfig) -> VMamba:
    torch.manual_seed(3)
    model = VMamba(config).eval()
    with torch.no_grad():  # away from the small values of initialisation, where mistakes would hide
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and name.endswith("weight"):
                parameter.mul_(3)
            elif parameter.ndim == 1 and "dt_" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _whole(model: VMamba, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    dtype = next(model.parameters()).dtype
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(dtype) / 255
    mean, std = (torch.tensor(v, dtype=dtype).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        return model.forward_features((image - mean) / std)[0].permute(1, 2, 0).numpy()


@cache
def _expected(config: VMambaConfig, height_px: int, width_px: int) -> NDArray[np.float32]:
    return _whole(_model(config), _pixels(height_px, width_px))


def _relative(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_strips_equal_whole_maps(kind: str, size: tuple[int, int]) -> None:
    config = KINDS[kind]
    for threads, strip_rows in ((1, 1), (2, 3), (3, None)):
        forward = StripForward(_model(config), precision="fp32", threads=threads, strip_rows=strip_rows)
        assert _relative(forward(_pixels(*size)), _expected(config, *size)) < 1e-5, (threads, strip_rows)


def test_it_agrees_with_the_reference_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "wsi_vmamba.ops.choose_backend", lambda device, dtype: ("reference", "asked for by the test")
    )
    double = VMamba(SMALL).double().eval()
    double.load_state_dict(_model(SMALL).state_dict())
    pixels = _pixels(50, 90)
    forward = StripForward(_model(SMALL), precision="fp32", threads=2, strip_rows=2)
    assert _relative(forward(pixels), _whole(double, pixels)) < 5e-6


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "vmamba_pico"])
def test_published_widths(name: str) -> None:
    config = replace(VARIANTS[name], depths=(1, 1, 1, 1), num_classes=1)
    model = VMamba(config).eval()
    pixels = _pixels(75, 110)
    forward = StripForward(model, precision="fp32", threads=2, strip_rows=5)
    assert _relative(forward(pixels), _whole(model, pixels)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_the_direction_of_every_feature(kind: str) -> None:
    low = StripForward(_model(KINDS[kind]), precision="bf16", threads=2)(_pixels(97, 131))
    full = _expected(KINDS[kind], 97, 131)
    cosine = (low * full).sum(-1) / np.linalg.norm(low, axis=-1) / np.linalg.norm(full, axis=-1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_result_comes_from_stale_memory(precision: str) -> None:
    forward = StripForward(_model(SMALL), precision=precision, threads=2, strip_rows=3)
    pixels = _pixels(97, 131)
    before = forward(pixels)
    for arena in (forward._maps, forward._scratch):
        arena.take(arena.held_bytes).fill_(255)  # all ones is not-a-number in either precision
    np.testing.assert_array_equal(forward(pixels), before)


def test_regions_of_a_slide_share_memory_and_do_not_disturb_each_other() -> None:
    forward = StripForward(_model(SMALL), precision="fp32", threads=2)
    large = forward(_pixels(97, 131))
    held = forward._maps.held_bytes
    small = forward(_pixels(33, 40))
    assert forward._maps.held_bytes == held
    np.testing.assert_array_equal(forward(_pixels(97, 131)), large)
    np.testing.assert_array_equal(
        StripForward(_model(SMALL), precision="fp32", threads=2)(_pixels(33, 40)), small
    )


def test_pixels_may_be_a_view_and_stay_as_they_are() -> None:
    forward = StripForward(_model(SMALL), precision="fp32", threads=2)
    canvas = _pixels(120, 160)
    view = canvas[10:74, 20:116]
    kept = canvas.copy()
    view.flags.writeable = False
    np.testing.assert_array_equal(forward(view), forward(np.ascontiguousarray(view)))
    mirrored = view[:, ::-1]
    np.testing.assert_array_equal(forward(mirrored), forward(np.ascontiguousarray(mirrored)))
    np.testing.assert_array_equal(canvas, kept)


def test_threads_of_torch_are_put_back_and_operators_are_clocked() -> None:
    before = torch.get_num_threads()
    forward = StripForward(_model(SMALL), precision="fp32", threads=2)
    forward(_pixels(64, 96))
    assert torch.get_num_threads() == before
    fused = {"stem", "scan inputs", "scan pass 1", "scan pass 2", "out_proj + MLP"}
    step_by_step = {"norm + in_proj", "dwconv + SiLU", "x_proj", "norm + MLP"}  # widths of 24 and 56
    assert fused | step_by_step <= set(forward.profile.cpu_seconds)
    assert all(seconds >= 0 for seconds in forward.profile.cpu_seconds.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_packed_linear_with_and_without_onednn(dtype: torch.dtype, gelu: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((70, 24), (48, 24), (48,)))
    expected = torch.nn.functional.linear(
        x.to(dtype).double(), weight.to(dtype).double(), bias.to(dtype).double()
    )
    expected = torch.nn.functional.gelu(expected) if gelu else expected
    unit = 2**-18 if dtype == torch.float32 else 2**-7
    with torch.inference_mode():
        for onednn in (None, False):
            out = PackedLinear(weight, bias, dtype=dtype, gelu=gelu, onednn=onednn)(x.to(dtype))
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), expected, rtol=unit, atol=unit)
