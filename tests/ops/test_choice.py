"""Which implementation of the scan a map gets, and how torch's own machinery gets along with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wsi_vmamba import ops
from wsi_vmamba.model import build_backbone
from wsi_vmamba.ops import triton

CUDA = torch.device("cuda")


def test_cuda_takes_triton_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "unavailable_reason", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU called {device}")
    assert ops.choose_backend(CUDA, torch.bfloat16) == ("triton", "Triton kernel, a GPU called cuda")
    name, why = ops.choose_backend(CUDA, torch.float64)
    assert name == "reference"
    assert "float64" in why


def test_cuda_without_triton_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    name, why = ops.choose_backend(CUDA, torch.float32)
    assert name == "reference"
    assert "pip install 'wsi-vmamba[triton]'" in why


def test_other_devices_take_the_reference() -> None:
    assert ops.choose_backend(torch.device("meta"), torch.float32)[0] == "reference"


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.slow
def test_compiles_as_one_graph_with_equal_results() -> None:
    model = build_backbone("vmamba_pico", num_classes=3, seed=1).eval()
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = model(pixels)
    expected.sum().backward()
    wanted = _gradients(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = compiled(pixels)
    got.sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_compiler_is_not_imported_before_it_is_used() -> None:
    code = "import sys, wsi_vmamba.ops; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gradient_checkpointing_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 5, 7, 8), (1, 5, 7, 12), (4, 8, 1), (4, 8), (32, 1), (32,)]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    wanted = torch.autograd.grad(ops.ss2d_scan(*inputs).square().sum(), inputs)
    again = checkpoint(ops.ss2d_scan, *inputs, use_reentrant=False)
    for got, expected in zip(torch.autograd.grad(again.square().sum(), inputs), wanted, strict=True):
        assert torch.equal(got, expected)


_TWO_PROCESSES = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from wsi_vmamba.model import build_backbone

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
alone = build_backbone("vmamba_pico", num_classes=2, seed=3).eval()
alone(images).square().sum(1).mean().backward()
model = build_backbone("vmamba_pico", num_classes=2, seed=3 + rank).eval()
shared = DistributedDataParallel(model)
shared(images[rank : rank + 1]).square().sum(1).mean().backward()
for (name, wanted), (_, got) in zip(alone.named_parameters(), model.named_parameters(), strict=True):
    torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-3, atol=1e-5, msg=name)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_data_parallel_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", _TWO_PROCESSES, str(rank), str(tmp_path / "store")] for rank in range(2)
    ]
    processes = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
