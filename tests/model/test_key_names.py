"""One small VMamba under all the names that checkpoints have for its tensors: what it computes stays the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.model.key_names import todays_names
from wsi_vmamba.model.recognise import config_of, recognise
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba

SMALL = VMambaConfig(depths=(1, 2), dims=(16, 24), d_state=2, num_classes=3)
VANILLA = VMambaConfig(
    depths=(1, 1), dims=(16, 24), ssm_ratio=2.0, d_state=4, mlp_ratio=0.0, gated=True, conv_bias=True, patch_embed=1,
    downsample=1, num_classes=3,
)  # fmt: skip
State = dict[str, Tensor]


def logits(model: torch.nn.Module) -> Tensor:
    image = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: Tensor = model.eval()(image)
    return found


def prefixed(*prefixes: str) -> Callable[[State], State]:
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


def one_layer_each_direction(state: State) -> State:
    """As Mamba's own code holds them: a list of linear layers."""
    changed: State = {}
    for key, value in state.items():
        base, _, end = key.rpartition("_")
        if base.endswith((".x_proj", ".dt_projs")):
            changed |= {f"{base}.{k}.{end}": part.clone() for k, part in enumerate(value)}
        else:
            changed[key] = value
    assert "layers.0.blocks.0.op.x_proj.3.weight" in changed
    assert "layers.0.blocks.0.op.dt_projs.0.bias" in changed
    return changed


def by_direction(state: State) -> State:
    """A and D not laid end to end."""
    return {
        key: value.unflatten(0, (4, -1)) if key.endswith(("A_logs", "Ds")) else value
        for key, value in state.items()
    }


def as_convolutions(state: State) -> State:
    wide = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")
    return {key: value[..., None, None] if key.endswith(wide) else value for key, value in state.items()}


def profiled(state: State) -> State:
    """As a profiler leaves it."""
    counts = {"total_ops": torch.zeros(1, dtype=torch.float64), "layers.0.total_params": torch.zeros(1)}
    return {**state, **counts}


FORMS: dict[str, tuple[Callable[[State], State], str | None]] = {
    "data parallel": (prefixed("module."), "model"),
    "compiled, then parallel": (prefixed("module.", "_orig_mod."), None),
    "Lightning": (prefixed("model."), "state_dict"),
    "Lightning, compiled": (prefixed("model.", "_orig_mod."), "state_dict"),
    "backbone alone": (prefixed("backbone."), "state_dict"),
    "running average": (prefixed("module."), "model_ema"),
    "1x1 convolutions": (as_convolutions, "model"),
    "a layer for each direction": (one_layer_each_direction, "model"),
    "A and D by direction": (by_direction, "model"),
    "profiled": (profiled, "model"),
    "all at once": (
        lambda state: prefixed("module.")(as_convolutions(by_direction(one_layer_each_direction(profiled(state))))),
        "state_dict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", [SMALL, VANILLA], ids=["second", "first generation"])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_model_under_every_name(tmp_path: Path, form: str, config: VMambaConfig) -> None:
    model = build_backbone(config, seed=7)
    rename, container = FORMS[form]
    state = rename(dict(model.state_dict()))
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "w.pth")
    loaded = build_backbone(config, weights=tmp_path / "w.pth", seed=0)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(build_backbone(config, seed=0)), logits(model))


def test_half_precision_gives_what_the_rounded_weights_give(tmp_path: Path) -> None:
    model = build_backbone(SMALL, seed=7)
    half = {key: value.half() for key, value in model.state_dict().items()}
    torch.save({"model": half}, tmp_path / "w.pth")
    loaded = build_backbone(SMALL, weights=tmp_path / "w.pth")
    model.load_state_dict({key: value.float() for key, value in half.items()})
    assert torch.equal(logits(loaded), logits(model))


def test_the_average_of_torch_itself(tmp_path: Path) -> None:
    model = build_backbone(SMALL, seed=7)
    average = AveragedModel(model)
    average.update_parameters(build_backbone(SMALL, seed=8))
    average.update_parameters(build_backbone(SMALL, seed=9))
    torch.save({"ema": average.state_dict()}, tmp_path / "w.pth")
    assert torch.equal(logits(build_backbone(SMALL, weights=tmp_path / "w.pth")), logits(average.module))


def test_directions_that_do_not_belong_together_are_refused() -> None:
    state = one_layer_each_direction(dict(build_backbone(SMALL).state_dict()))
    lacking = {key: value for key, value in state.items() if ".x_proj.1." not in key}
    with pytest.raises(WeightsError, match=r"x_proj_weight one direction at a time.*directions \[0, 2, 3\]"):
        todays_names(lacking)
    with pytest.raises(WeightsError, match="and the whole besides"):
        todays_names({**state, "layers.0.blocks.0.op.x_proj_weight": torch.zeros(4, 5, 16)})


def test_two_keys_for_one_tensor_are_refused() -> None:
    state = dict(build_backbone(SMALL).state_dict())
    with pytest.raises(WeightsError, match=r"holds classifier\.norm\.weight twice"):
        todays_names({"norm.weight": torch.ones(24), **state})


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_recognised_by_its_shapes(name: str) -> None:
    with torch.device("meta"):
        state = VMamba(VARIANTS[name].with_classes(7)).state_dict()
    assert recognise(state) == name


def test_the_published_shapes_are_recognised(golden: Path) -> None:
    released = json.loads(gzip.decompress((golden / "release_state_dicts.json.gz").read_bytes()))
    assert len(released) == 9
    for name, facts in released.items():
        state = {key: torch.empty(shape, device="meta") for key, shape in facts["keys"].items()}
        size = name.removeprefix("vanilla_vmamba_")
        assert recognise(todays_names(state)) == (name if size == name else f"vmamba_{size}_v0")


@pytest.mark.parametrize("config", [SMALL, VANILLA])
def test_numbers_are_read_from_shapes(config: VMambaConfig) -> None:
    found = config_of(build_backbone(config).state_dict())
    assert found.with_classes(3) == config


def test_what_is_no_variant_is_described() -> None:
    with pytest.raises(
        WeightsError, match=r"not in the table: depths \(1, 2\), dims \(16, 24\).*vmamba_tiny_s1l8"
    ):
        recognise(build_backbone(SMALL).state_dict())
    with pytest.raises(
        WeightsError, match=r"no weights of a VMamba: layers\.0\.blocks\.0\.norm\.weight is missing"
    ):
        recognise({"conv1.weight": torch.zeros(3)})
    state = dict(build_backbone(SMALL).state_dict())
    del state["layers.0.blocks.0.op.A_logs"]
    with pytest.raises(WeightsError, match=r"A_logs is missing among \d+ tensors"):
        recognise(state)
