"""When blocks are trained with the fused operators, and that it makes no difference but speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from wsi_vmamba.model import fused
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)


def small(**changes: object) -> VMamba:
    torch.manual_seed(0)
    return VMamba(
        VMambaConfig.from_mapping({"depths": [1, 2], "dims": [32, 64], "num_classes": 3, **changes})
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused parts as they are used."""
    used: list[str] = []

    def watch(name: str, original: Callable[..., Tensor]) -> None:
        def run(*args: object) -> Tensor:
            used.append(name)
            return original(*args)

        monkeypatch.setattr(fused, name, run)

    for name in ("stem", "block", "downsample"):
        watch(name, getattr(fused, name))
    return used


EVERYTHING = ["stem", "block", "downsample", "block", "block"]


def gradients(model: nn.Module, x: Tensor, *, bf16: bool = False) -> dict[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = model(x)
    (out.float() * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    found = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    assert all(p.grad is not None and p.grad.is_contiguous() for p in model.parameters())
    return found | {"out": out.detach().double()}


def worst(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float((got[k] - expected[k]).norm() / expected[k].norm()) for k in expected)


@pytest.mark.parametrize("changes", [{}, {"share_directions": True, "conv_bias": True}, {"mlp_ratio": 0.0}])
def test_training_mode_is_fused_and_as_exact_as_the_modules(
    calls: list[str], changes: dict[str, object]
) -> None:
    model, x = small(**changes), torch.randn(3, 3, 21, 18)
    exact = gradients(small(**changes).double(), x.double())  # type: ignore[arg-type]
    assert calls == []
    assert worst(gradients(model, x), exact) <= 2e-5
    assert calls == EVERYTHING
    calls.clear()
    plain = gradients(model.eval(), x, bf16=True)
    assert calls == []
    low = gradients(model.train(), x, bf16=True)
    assert calls == EVERYTHING
    # As near to the truth as the modules themselves come with half precision.
    assert worst(low, exact) <= 1.5 * worst(plain, exact)


def test_states_and_names_stay_those_of_the_modules() -> None:
    names = list(small().state_dict())
    assert "patch_embed.0.weight" in names
    assert "patch_embed.7.bias" in names
    assert "layers.0.downsample.1.weight" in names
    assert "layers.0.downsample.3.weight" in names


def test_evaluation_mode_and_a_teacher_without_gradients(calls: list[str]) -> None:
    model, x = small(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()(x)
        assert calls == []
        torch.testing.assert_close(model.train()(x), expected, rtol=1e-4, atol=1e-5)
    assert calls == EVERYTHING


def test_what_is_not_ours_runs_the_modules(calls: list[str]) -> None:
    """A hook, a replaced layer, other widths, other dtypes, a missing or an added bias: no part, or not that block."""
    x = torch.randn(1, 3, 32, 32)
    hooked = small()
    seen: list[tuple[int, ...]] = []
    hooked.layers[1].blocks[0].mlp.fc1.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    hooked(x)
    assert calls == ["stem", "block", "downsample", "block"]
    assert len(seen) == 1

    class Other(nn.Linear):
        pass

    replaced = small()
    block = replaced.layers[0].blocks[0]
    block.mlp.fc1 = Other(32, 128)
    for change in (
        lambda: None,
        lambda: setattr(block.mlp, "fc1", nn.Linear(32, 128, bias=False)),
        lambda: setattr(block.op, "out_proj", nn.Linear(32, 32)),
        lambda: setattr(block, "norm2", nn.LayerNorm(32, elementwise_affine=False)),
    ):
        change()
        calls.clear()
        replaced(x)
        assert calls == ["stem", "downsample", "block", "block"]
    calls.clear()
    dropping = small()
    dropping.layers[1].blocks[1].drop_path_rate = 0.5
    dropping(x)
    assert calls == ["stem", "block", "downsample", "block"]
    calls.clear()
    small(dims=[24, 40])(x)
    small().double()(x.double())
    small(gated=True, d_state=2, downsample=1, patch_embed=1)(x)
    with torch.autocast("cpu", torch.float16):
        fused.suits(x, small())
    assert calls == []


def test_function_transforms_run_the_modules(calls: list[str]) -> None:
    stem, x = small().patch_embed, torch.randn(1, 3, 12, 8)
    weights = {name: p.detach() for name, p in stem.named_parameters()}
    found = torch.func.grad(lambda w: torch.func.functional_call(stem, w, (x,)).pow(3).sum())(weights)
    assert calls == []
    stem(x).pow(3).sum().backward()
    assert calls == ["stem"]
    for name, p in stem.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_have_the_same_gradients(calls: list[str], reentrant: bool) -> None:
    block, x = small().layers[0].blocks[0], torch.randn(2, 6, 5, 32, requires_grad=True)
    tensors = [x, *block.parameters()]
    expected = torch.autograd.grad(block(x).pow(2).sum(), tensors)
    block.zero_grad()
    x.grad = None
    checkpoint(block, x, use_reentrant=reentrant).pow(2).sum().backward()
    assert calls == ["block"] * 3
    assert all(torch.equal(t.grad, e) for t, e in zip(tensors, expected, strict=True))


def test_distributed_training_has_the_same_gradients(calls: list[str], tmp_path: Path) -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    expected = gradients(model, x)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        got = gradients(wrapped, x)
    finally:
        distributed.destroy_process_group()
    assert calls == 2 * EVERYTHING
    assert all(torch.equal(got["out" if k == "out" else f"module.{k}"], expected[k]) for k in expected)
