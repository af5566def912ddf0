"""Every published kind of VMamba against outputs of the published code (float64), stage by stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from wsi_vmamba.model import BACKBONES, build_backbone
from wsi_vmamba.model.vmamba import VMamba

MODELS = ("v05noz_s1", "v05noz_s2", "v05z_n16", "v0_n16")
SIZES = ("64x64", "96x160", "50x70", "33x127")


def _fields(published: dict[str, object]) -> dict[str, object]:
    """The explicit fields that stand for a published configuration."""
    return {
        "depths": published["depths"],
        "dims": published["dims"],
        "ssm_ratio": published["ssm_ratio"],
        "d_state": published["ssm_d_state"],
        "mlp_ratio": published["mlp_ratio"],
        "gated": "noz" not in str(published["forward_type"]),
        "conv_bias": published["ssm_conv_bias"],
        "patch_embed": int(str(published["patchembed_version"])[1]),
        "downsample": int(str(published["downsample_version"])[1]),
        "norm_layout": published["norm_layer"],
        "num_classes": published["num_classes"],
    }


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, golden: Path) -> tuple[VMamba, dict[str, Tensor]]:
    entry = json.loads((golden / "manifest_models.json").read_text())[request.param]
    tensors = load_file(golden / entry["file"])
    model = build_backbone(_fields(entry["config"]))
    prefix = "weights."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    model.load_state_dict(state, strict=True)
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    return model.eval(), tensors


def _expected_stages(model: VMamba, tensors: dict[str, Tensor], size: str) -> list[Tensor]:
    stages = [tensors[f"{size}.stage{i}.blocks"] for i in range(4)]
    last = model.config.norm_layout == "ln"
    return [stage.permute(0, 3, 1, 2) if last else stage for stage in stages]


@pytest.mark.parametrize("size", SIZES)
def test_float64_equals_the_published_model(
    case: tuple[VMamba, dict[str, Tensor]], size: str, monkeypatch
) -> None:
    model, tensors = case
    monkeypatch.setattr(
        "wsi_vmamba.ops.choose_backend", lambda device, dtype: ("reference", "asked for by the test")
    )
    stages: list[Tensor] = []
    double = model.double()
    hooks = [
        stage.blocks.register_forward_hook(lambda module, inputs, output: stages.append(output))
        for stage in double.layers
    ]
    with torch.inference_mode():
        logits = double(tensors[f"{size}.input"].double())
    for hook in hooks:
        hook.remove()
    assert (logits - tensors[f"{size}.logits_f64"]).abs().max() < 1e-10
    # Stages are stored in float32, so they are known to half a unit of that.
    for stage, expected in zip(stages, _expected_stages(model, tensors, size), strict=True):
        torch.testing.assert_close(stage.permute(0, 3, 1, 2), expected.double(), rtol=6e-8, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_float32_is_within_1e_5(case: tuple[VMamba, dict[str, Tensor]], size: str) -> None:
    model, tensors = case
    x = tensors[f"{size}.input"]
    with torch.inference_mode():
        single = model.float()
        logits, stages, last = single(x), single.forward_stages(x), single.forward_features(x)
    assert (logits - tensors[f"{size}.logits_f64"]).abs().max() < 1e-5
    for stage, expected in zip(stages, _expected_stages(model, tensors, size), strict=True):
        assert (stage - expected).abs().max() < 1e-5
    final = tensors[f"{size}.final_norm"]
    final = final.permute(0, 3, 1, 2) if model.config.norm_layout == "ln" else final
    assert (last - final).abs().max() < 1e-5


def test_keys_shapes_and_counts_of_all_released_models(golden: Path) -> None:
    released = json.loads((golden / "release_state_dicts.json").read_text())
    assert len(released) == 9
    for published, entry in released.items():
        generation, _, size = published.rpartition("_")
        name = f"vmamba_{size}_v0" if generation == "vanilla_vmamba" else published
        assert name in BACKBONES
        with torch.device("meta"):
            model = VMamba(_config(name))
        assert {key: list(value.shape) for key, value in model.state_dict().items()} == entry["keys"]
        assert sum(p.numel() for p in model.parameters()) == entry["params"]


def _config(name: str):
    from wsi_vmamba.model.variants import VARIANTS

    return VARIANTS[name]
