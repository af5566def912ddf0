"""The reference scans against outputs and gradients of the published code, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from wsi_vmamba.ops import reference

SCAN_CASES = ("n1_small", "n1_len1", "n1_noD_nobias", "n2_nosoftplus", "n1_big_delta")
LARGE_SCAN_CASES = (
    "n1_b2", "n16_odd", "n4_k1", "n8_k2", "n1_long5000", "n16_long2100", "n4_tiny_delta", "n16_z",
)  # fmt: skip


def load(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        keys = [k for k in file.keys() if k.startswith(prefix)]  # noqa: SIM118
        return {k.removeprefix(prefix): file.get_tensor(k) for k in keys}


@pytest.mark.parametrize("case", SCAN_CASES)
def test_selective_scan_and_gradients_equal_golden(golden: Path, case: str) -> None:
    check_selective_scan(golden, case)


@pytest.mark.parametrize("case", LARGE_SCAN_CASES)
def test_selective_scan_and_gradients_equal_the_larger_set(large_golden: Path, case: str) -> None:
    check_selective_scan(large_golden, case)


def check_selective_scan(golden: Path, case: str) -> None:
    data = load(golden / "ops_selective_scan.safetensors", f"{case}.")
    facts = json.loads((golden / "manifest_ops.json").read_text())["selective_scan"][case]
    names = [n for n in ("u", "delta", "A", "B", "C", "D", "delta_bias", "z") if f"in.{n}" in data]
    inputs = {n: data[f"in.{n}"].double().requires_grad_() for n in names}
    z = inputs.get("z")
    y = reference.selective_scan(
        **{n: t for n, t in inputs.items() if n != "z"}, delta_softplus=facts["delta_softplus"]
    )
    out = y if z is None else y * F.silu(z)
    # Long cases were stored rounded to float32.
    tolerance = 1e-12 if facts["stored"] == "float64" else 1e-7
    expected = data["out"].double()
    assert (out - expected).abs().max() <= tolerance * expected.abs().max()
    out.backward(data["in.dout"].double())
    for name, tensor in inputs.items():
        expected = data[f"grad.{name}"].double()
        assert tensor.grad is not None
        assert (tensor.grad - expected).abs().max() <= tolerance * expected.abs().max(), name


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    u, delta = torch.randn(2, 1, 6, 50, dtype=torch.float64)
    B, C = torch.randn(2, 1, 2, 3, 50, dtype=torch.float64)
    A = -torch.rand(6, 3, dtype=torch.float64)
    whole = reference.selective_scan(u, delta, A, B, C, delta_softplus=True)
    monkeypatch.setattr(reference, "_CHUNK_TOKENS", 7)
    assert torch.equal(reference.selective_scan(u, delta, A, B, C, delta_softplus=True), whole)


@pytest.mark.parametrize("case", ["b1c2h3w4", "b2c3h5w7", "b1c1h1w6", "b1c2h6w1"])
def test_cross_scan_and_merge_equal_golden(golden: Path, case: str) -> None:
    data = load(golden / "ops_cross_scan.safetensors", f"{case}.scans0.cl2cf.")
    height, width = data["scan_in"].shape[1:3]
    assert torch.equal(reference.cross_scan(data["scan_in"]), data["scan_out"])
    merged = reference.cross_merge(data["merge_in"].flatten(3), height=height, width=width)
    expected = data["merge_out"].view_as(merged)
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-6)
