"""SS2D layers of the published code, rebuilt around ss2d_scan: outputs and gradients, reference and C++."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from wsi_vmamba import ops
from wsi_vmamba.ops import cpu

#: backend -> dtype and largest error allowed, relative to the largest value.
BACKENDS = {"reference": (torch.float64, 1e-12), "cpp": (torch.float32, 3e-6)}


def ss2d_layer(x: Tensor, weights: dict[str, Tensor], *, gated: bool, backend: str) -> Tensor:
    """(B, H, W, C) -> (B, H, W, C), as the published code does it, with or without a gate."""
    t = x @ weights["in_proj.weight"].T
    t, z = t.chunk(2, dim=-1) if gated else (t, None)
    channels = t.shape[-1]
    bias = weights.get("conv2d.bias")
    image = F.conv2d(t.permute(0, 3, 1, 2), weights["conv2d.weight"], bias, padding=1, groups=channels)
    u = F.silu(image).permute(0, 2, 3, 1)
    proj = u @ weights["x_proj_weight"].flatten(0, 1).T
    names = ("dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
    y = ops.ss2d_scan(u, proj, *(weights[n] for n in names), backend=backend)
    y = F.layer_norm(y, (channels,), weights["out_norm.weight"], weights["out_norm.bias"])
    if z is not None:
        y = y * F.silu(z)
    return y @ weights["out_proj.weight"].T


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "gated"), [("s1_cl", False), ("v02", True)])
def test_ss2d_layer_equals_golden(golden: Path, case: str, gated: bool, backend: str) -> None:
    check_layer(golden, case, gated=gated, backend=backend, channels_first=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "gated"), [("s1", False), ("s2", False), ("z_n16", True)])
def test_ss2d_layer_equals_the_larger_set(large_golden: Path, case: str, gated: bool, backend: str) -> None:
    check_layer(large_golden, case, gated=gated, backend=backend, channels_first=True)


def check_layer(golden: Path, case: str, *, gated: bool, backend: str, channels_first: bool) -> None:
    if backend == "cpp" and not cpu.available:
        pytest.skip(cpu.why)
    dtype, tolerance = BACKENDS[backend]
    with safe_open(golden / "ops_ss2d.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{case}.")]  # noqa: SIM118
        data = {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}
    weights = {
        k.removeprefix("weights."): v.to(dtype).requires_grad_()
        for k, v in data.items()
        if k.startswith("weights.")
    }
    x = data["x"].to(dtype).requires_grad_()
    on_map = x.permute(0, 2, 3, 1) if channels_first else x
    y = ss2d_layer(on_map, weights, gated=gated, backend=backend)
    y = y.permute(0, 3, 1, 2) if channels_first else y
    assert (y - data["y"]).abs().max() <= tolerance * data["y"].abs().max()
    y.backward(data["gy"].to(dtype))
    for name, tensor in {"x": x, **weights}.items():
        expected = data["grad_x"] if name == "x" else data[f"grad.{name}"]
        assert tensor.grad is not None
        assert (tensor.grad - expected).abs().max() <= tolerance * expected.abs().max(), name
