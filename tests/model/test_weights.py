"""Loading weights: published formats, old names, clear refusals, and nothing that runs code."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.weights import load_weights, weights_hash

TINY = {"depths": [1, 1], "dims": [16, 24], "num_classes": 3}
VANILLA = {**TINY, "patch_embed": 1, "downsample": 1, "mlp_ratio": 0, "gated": True, "conv_bias": True}


def _state(seed: int = 7, fields: dict[str, object] = TINY) -> dict[str, Tensor]:
    return build_backbone(fields, seed=seed).state_dict()


def _loads_as(path: Path, seed: int = 7, fields: dict[str, object] = TINY) -> bool:
    model = build_backbone(fields, weights=path, seed=0)
    return weights_hash(model) == weights_hash(build_backbone(fields, seed=seed))


def test_safetensors(tmp_path: Path) -> None:
    save_file(_state(), tmp_path / "w.safetensors")
    assert _loads_as(tmp_path / "w.safetensors")


@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_pth_with_and_without_container(tmp_path: Path, container: str | None) -> None:
    content = _state() if container is None else {container: _state(), "epoch": 292}
    torch.save(content, tmp_path / "w.pth")
    assert _loads_as(tmp_path / "w.pth")


def test_published_checkpoint_with_its_configuration_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__ = "yacs.config"
    CfgNode.__qualname__ = "CfgNode"
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(MODEL=CfgNode(TYPE="vssm"), EPOCHS=300)
    config.__dict__["__immutable__"] = True
    torch.save({"model": _state(), "config": config, "max_accuracy": 82.6}, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert _loads_as(tmp_path / "w.pth")


def test_four_dimensional_one_by_one_weights(tmp_path: Path) -> None:
    wide = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")
    state = {k: v[:, :, None, None] if k.endswith(wide) else v for k, v in _state().items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    assert _loads_as(tmp_path / "w.pth")


def test_names_of_the_first_releases(tmp_path: Path) -> None:
    renamed = {}
    for key, value in _state(fields=VANILLA).items():
        key = key.replace("patch_embed.0.", "patch_embed.proj.").replace(
            "patch_embed.2.", "patch_embed.norm."
        )
        key = key.replace("0.norm.", "0.ln_1.") if ".blocks." in key and ".op." not in key else key
        key = key.replace(".op.", ".self_attention.").removeprefix("classifier.")
        renamed["module." + key] = value
    assert "module.layers.0.blocks.0.ln_1.weight" in renamed
    assert "module.head.weight" in renamed
    torch.save({"model": renamed}, tmp_path / "w.pth")
    assert _loads_as(tmp_path / "w.pth", fields=VANILLA)


def test_head_follows_the_file_unless_told(tmp_path: Path) -> None:
    save_file(_state(), tmp_path / "w.safetensors")
    fields = {**TINY, "num_classes": 5}
    assert build_backbone(fields, weights=tmp_path / "w.safetensors").config.num_classes == 3
    with pytest.raises(WeightsError, match="leave num_classes out"):
        build_backbone(fields, num_classes=5, weights=tmp_path / "w.safetensors")


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "ran"
    content = {"model": _state(), "config": _Hostile(marker)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="could run code"):
        build_backbone(TINY, weights=tmp_path / "w.pth")
    assert not marker.exists()


def test_plain_hostile_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(_Hostile(marker)))
    with pytest.raises(WeightsError):
        build_backbone(TINY, weights=tmp_path / "w.pth")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        build_backbone(TINY, weights=tmp_path / name)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        build_backbone(TINY, weights=tmp_path / "w.pth")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file at .*nowhere\.pth"):
        build_backbone(TINY, weights=tmp_path / "nowhere.pth")


def test_mismatch_lists_keys_and_changes_nothing(tmp_path: Path) -> None:
    state = _state()
    del state["patch_embed.0.bias"]
    state["extra.weight"] = torch.zeros(2)
    state["layers.0.blocks.0.op.Ds"] = torch.zeros(9)
    save_file(state, tmp_path / "w.safetensors")
    model = build_backbone(TINY)
    before = weights_hash(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "1 missing: patch_embed.0.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "layers.0.blocks.0.op.Ds is (9,), the model has (64,)" in message
    assert weights_hash(model) == before


def test_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save({"model": [1, 2]}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        build_backbone(TINY, weights=tmp_path / "w.pth")


def test_hash_follows_values_and_names_only() -> None:
    model = build_backbone(TINY)
    before = weights_hash(model)
    assert len(before) == 64
    assert weights_hash(build_backbone(TINY).to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        model.get_parameter("classifier.head.bias")[1] += 1e-6
    assert weights_hash(model) != before
