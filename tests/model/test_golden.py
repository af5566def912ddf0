"""Every published kind of VMamba against outputs of the published code (float64), stage by stage."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wsi_vmamba.model import BACKBONES, VMambaConfig, build_backbone
from wsi_vmamba.model.blocks import downsample
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
def case(request: pytest.FixtureRequest, large_golden: Path) -> tuple[VMamba, dict[str, Tensor]]:
    entry = json.loads((large_golden / "manifest_models.json").read_text())[request.param]
    tensors = load_file(large_golden / entry["file"])
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["v05noz_s1", "v0_n16"])
def test_first_stages_and_head_equal_the_published_model(golden: Path, name: str, dtype: torch.dtype) -> None:
    """Of the shipped numbers: stem, blocks and downsampling in a chain, then norm, mean and head of the last map."""
    entry = json.loads((golden / "manifest_models.json").read_text())[name]
    tensors = load_file(golden / entry["file"])
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    expected = {k.removeprefix("50x70."): v for k, v in tensors.items() if k.startswith("50x70.")}
    config = VMambaConfig.from_mapping(_fields(entry["config"]))
    model = _with_weights(_first_stages(config, entry["stages"]), weights, "patch_embed.", "layers.")
    between = _with_weights(downsample(config, 0), weights, "layers.0.downsample.", strip=True)
    # What is stored in float32 is known to half a unit of that.
    close = {"rtol": 6e-8, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 0, "atol": 1e-5}
    first = config.norm_layout == "ln2d"

    def check(tokens: Tensor, wanted: str) -> None:
        found = tokens.permute(0, 3, 1, 2) if first else tokens
        torch.testing.assert_close(found, expected[wanted].to(dtype), **close)

    with torch.inference_mode():
        x = expected["input"].to(dtype)
        check(model.to(dtype).patch_embed(x), "patch_embed")
        stages = [stage.permute(0, 2, 3, 1) for stage in model.forward_stages(x)]
        for index, stage in enumerate(stages):
            check(stage, f"stage{index}.blocks")
        check(between.to(dtype)(stages[0]), "stage0.downsample")
        last = expected["stage3.blocks"].to(dtype)
        head = _with_weights(VMamba(config).classifier, weights, "classifier.", strip=True).to(dtype)
        normed = head.norm(last.permute(0, 2, 3, 1) if first else last)
        # The input of the norm is rounded to float32 here, and that of the published model was not.
        rounding = {"rtol": 0, "atol": 2e-6 if dtype == torch.float64 else 1e-5}
        wanted = expected["final_norm"].permute(0, 2, 3, 1) if first else expected["final_norm"]
        torch.testing.assert_close(normed, wanted.to(dtype), **rounding)
        torch.testing.assert_close(normed.mean((1, 2)), expected["pooled"].to(dtype), **rounding)
        torch.testing.assert_close(
            head(last.permute(0, 2, 3, 1) if first else last).mean((1, 2)),
            expected["logits_f64"].to(dtype),
            **rounding,
        )


def _first_stages(config: VMambaConfig, count: int) -> VMamba:
    return VMamba(replace(config, depths=config.depths[:count], dims=config.dims[:count])).eval()


def _with_weights(
    module: nn.Module, weights: dict[str, Tensor], *heads: str, strip: bool = False
) -> nn.Module:
    """Fill a module; only what the shipped numbers leave out (the head behind fewer stages) may be missing."""
    chosen = {k.removeprefix(heads[0]) if strip else k: v for k, v in weights.items() if k.startswith(heads)}
    own = module.state_dict()
    missing = own.keys() - chosen.keys()
    assert all(key.startswith("classifier.") for key in missing), missing
    module.load_state_dict({key: chosen.get(key, value) for key, value in own.items()})
    return module


def test_keys_shapes_and_counts_of_all_released_models(golden: Path) -> None:
    released = json.loads(gzip.decompress((golden / "release_state_dicts.json.gz").read_bytes()))
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
