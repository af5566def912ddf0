"""Checkpoints as training programs leave them: several state dicts, names of wrappers, other formats, no numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.weights import read_tensors, weights_hash

TINY = {"depths": [1, 1], "dims": [16, 24], "num_classes": 3}
DOWNLOADS = {
    "a web page": (
        b"\n<!doctype HTML><html><head>404</head></html>",
        "a web page, as a failed download leaves it",
    ),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1", "a Git LFS pointer"),
    "an error of a server": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "an XML document",
    ),
    "text": (b"Not found\n", "text beginning with 'Not found"),
    "gzip": (b"\x1f\x8b\x08\0rest", "a gzip archive; unpack it first"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "zeros": (bytes(999), "zero bytes"),
    "nothing": (b"", "nothing"),
}


def state(seed: int = 7) -> dict[str, Tensor]:
    return build_backbone(TINY, seed=seed).state_dict()


def loads_as(path: Path | str, seed: int = 7) -> bool:
    return weights_hash(build_backbone(TINY, weights=path)) == weights_hash(build_backbone(TINY, seed=seed))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# --- several state dicts ---


@pytest.mark.parametrize(
    "names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("student", "teacher")]
)
def test_several_that_differ_are_refused_until_one_is_named(tmp_path: Path, names: tuple[str, str]) -> None:
    path = saved(tmp_path / "w.pth", {names[0]: state(7), names[1]: state(8), "epoch": 3})
    with pytest.raises(WeightsError) as caught:
        build_backbone(TINY, weights=path)
    message = str(caught.value)
    assert f"several state dicts that differ: {names[0]!r}, {names[1]!r}" in message
    assert f"{path}#{names[0]}" in message
    for name, seed in zip(names, (7, 8), strict=True):
        assert loads_as(f"{path}#{name}", seed)
        assert resolve_weights("vmamba_pico", f"{path}#{name}").note == f"weights from {name} of {path}"


def test_equal_ones_are_one(tmp_path: Path) -> None:
    assert loads_as(saved(tmp_path / "w.pth", {"model": state(), "model_ema": state()}))


def test_a_name_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"model": state(7), "model_ema": state(8)})
    with pytest.raises(WeightsError, match=r"no state dict named 'ema'; it has 'model', 'model_ema'"):
        build_backbone(TINY, weights=f"{path}#ema")
    with pytest.raises(UsageError, match=r"no weights file at .*nowhere\.pth"):
        resolve_weights("vmamba_pico", str(tmp_path / "nowhere.pth#model"))


def test_a_file_whose_name_has_the_sign_is_that_file(tmp_path: Path) -> None:
    assert loads_as(saved(tmp_path / "run#3.pth", state()))
    assert loads_as(
        f"{saved(tmp_path / 'run#4.pth', {'model': state(7), 'model_ema': state(8)})}#model_ema", 8
    )


def test_states_of_generators_and_optimisers_are_no_weights(tmp_path: Path) -> None:
    content = {
        "model": state(),
        "rng": {"cpu": torch.zeros(3)},
        "optimizer": {"state": {}, "param_groups": []},
    }
    assert loads_as(saved(tmp_path / "w.pth", content))


# --- names ---


@pytest.mark.parametrize("name", ["model_state_dict", "net", "params", "module", "teacher"])
def test_a_state_dict_under_any_name(tmp_path: Path, name: str) -> None:
    assert loads_as(saved(tmp_path / "w.pth", {name: state(), "epoch": 3}))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "model._orig_mod.",
        "backbone.",
    ],
)
def test_what_wrappers_put_before_the_keys(tmp_path: Path, prefix: str) -> None:
    content = {"state_dict": {prefix + key: value for key, value in state().items()}}
    assert loads_as(saved(tmp_path / "w.pth", content))


def test_parts_of_another_model_are_not_dropped(tmp_path: Path) -> None:
    content = {
        **{f"backbone.{key}": value for key, value in state().items()},
        "decoder.weight": torch.zeros(3),
    }
    with pytest.raises(WeightsError, match=r"unexpected: backbone\."):
        build_backbone(TINY, weights=saved(tmp_path / "w.pth", content))


def test_keys_with_and_without_a_wrapper_are_two_models(tmp_path: Path) -> None:
    one = state(8)
    content = {**state(7), **{f"module.{key}": value for key, value in one.items()}}
    with pytest.raises(WeightsError, match="holds keys twice"):
        build_backbone(TINY, weights=saved(tmp_path / "w.pth", content))


# --- formats ---


def test_the_content_says_the_format_not_the_name(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.pth")
    assert loads_as(tmp_path / "w.pth")
    assert loads_as(saved(tmp_path / "w.safetensors", {"model": state()}))


@pytest.mark.parametrize("what", DOWNLOADS)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_checkpoint_is_described_as_for_slides(tmp_path: Path, name: str, what: str) -> None:
    content, words = DOWNLOADS[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        build_backbone(TINY, weights=tmp_path / name)
    message = str(caught.value)
    assert "expected a .pth or .safetensors file, found " + words in message
    assert "could run code" not in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"TorchScript.*state_dict"):
        build_backbone(TINY, weights=tmp_path / "w.pt")


# --- values ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weights = {key: each.to(dtype) for key, each in state().items()}
    weights["patch_embed.0.bias"][3] = value
    with pytest.raises(WeightsError, match=r"not finite .* in 1 of \d+ tensors: patch_embed\.0\.bias"):
        build_backbone(TINY, weights=saved(tmp_path / "w.pth", weights))


def test_quantised_weights_are_not_taken_for_numbers(tmp_path: Path) -> None:
    weights = state()
    weights["patch_embed.0.weight"] = (weights["patch_embed.0.weight"] * 127).to(torch.int8)
    with pytest.raises(
        WeightsError, match=r"1 not floating-point, as of a quantised model: patch_embed\.0\.weight"
    ):
        build_backbone(TINY, weights=saved(tmp_path / "w.pth", weights))


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {key: value.half() for key, value in state().items()})
    model = build_backbone(TINY, weights=path)
    for key, value in read_tensors(path).items():
        torch.testing.assert_close(model.state_dict()[key], value.float(), rtol=0, atol=0)
