"""finetune as a user meets it: tiles in, weights out that `extract` takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from wsi_vmamba.config import FinetuneConfig
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.weights import read_state
from wsi_vmamba.pipelines import extract, finetune
from wsi_vmamba.store import open_features
from wsi_vmamba.training.finetune_state import save_state

OUTPUTS = ("metrics.csv", "weights.safetensors")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes by colour, four training and two validation tiles of each."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(4)
    for split, each in (("train", 4), ("validation", 2)):
        for name, rgb in (("fat", (235, 225, 230)), ("stroma", (220, 150, 180)), ("tumour", (150, 110, 190))):
            (folder / split / name).mkdir(parents=True)
            for index in range(each):
                pixels = np.clip(rng.normal(rgb, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / split / name / f"{index}.jpg"), pixels[..., ::-1])
    return folder


def config(tiles: Path, out: Path, **changes: object) -> FinetuneConfig:
    values = {"tiles": str(tiles), "out": str(out), "epochs": 3, "batch": 6, "learning_rate": 1e-3, **changes}
    return FinetuneConfig.model_validate(values)


def test_the_weights_are_those_of_the_best_epoch_and_extract_takes_them(
    tiles: Path, tmp_path: Path, write_tiny_slide, extract_config, capsys
):
    out = tmp_path / "tuned"
    assert finetune.run(config(tiles, out))
    said = capsys.readouterr().out
    assert "3 classes" in said
    assert f"--weights {out / 'weights.safetensors'}" in said
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    record = json.loads((out / "finetune.run.json").read_text())
    assert str(record["best"]["epoch"]) == [row["epoch"] for row in rows if row["is_best"] == "True"][-1]
    with safe_open(out / "weights.safetensors", "pt") as file:
        assert file.metadata()["classes"] == "fat,stroma,tumour"
    started = read_state(resolve_weights("vmamba_pico", "auto").path)
    tuned = read_state(out / "weights.safetensors")
    shift = {
        name: (tuned[name] - started[name].float()).abs().mean().item()
        for name in ("patch_embed.0.weight", "layers.3.blocks.1.mlp.fc1.weight")
    }
    assert 0 < shift["patch_embed.0.weight"] < 0.2 * shift["layers.3.blocks.1.mlp.fc1.weight"]
    write_tiny_slide(tmp_path / "slides" / "s.tif")
    made = []
    for name, weights in (("before", "auto"), ("after", str(out / "weights.safetensors"))):
        where = tmp_path / name
        asked = extract_config(tmp_path / "slides", where, backbone="vmamba_pico", weights=weights)
        assert extract.run(asked) is True
        made.append(open_features(where / "s.zarr"))
    assert made[0].meta.weights_hash != made[1].meta.weights_hash
    assert not np.array_equal(made[0].features, made[1].features)


def test_the_head_is_new_even_where_the_weights_have_one_of_that_size(tmp_path: Path):
    shipped = resolve_weights("vmamba_pico", "auto").path
    own = build_backbone("vmamba_pico", weights=shipped)
    classes = own.config.num_classes
    model, _ = finetune.start(config(tmp_path, tmp_path), n_classes=classes)
    parts = model.state_dict()
    fresh = build_backbone("vmamba_pico", num_classes=classes, seed=0).state_dict()
    for name, value in own.state_dict().items():
        expected = fresh[name] if name.startswith("classifier.head.") else value
        assert torch.equal(parts[name], expected), name


def test_nothing_is_replaced_unasked_and_only_a_vmamba_is_tuned(tiles: Path, tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"dear to me")
    with pytest.raises(UsageError, match="--overwrite"):
        finetune.run(config(tiles, tmp_path))
    assert (tmp_path / "weights.safetensors").read_bytes() == b"dear to me"
    with pytest.raises(UsageError, match="only VMamba backbones are fine-tuned here, null is none"):
        finetune.run(config(tiles, tmp_path / "out", backbone="null"))
    with pytest.raises(UsageError, match="no weights are shipped with vmamba_tiny_s1l8"):
        finetune.run(config(tiles, tmp_path / "out", backbone="vmamba_tiny_s1l8"))


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_numbers(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    recipe = {"epochs": 3, "drop_path": 0.2, "mixup": 0.8, "ema_decay": 0.9, "crop_px": 32, "erase": 0.25}
    assert finetune.run(config(tiles, tmp_path / "whole", **recipe))
    monkeypatch.setattr(finetune, "save_state", killed_after(2))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config(tiles, tmp_path / "parts", **recipe))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--resume"):
        finetune.run(config(tiles, tmp_path / "parts", **recipe))
    with pytest.raises(
        TrainingError, match=r"of another fine-tuning \(mixup: 0\.8 in the checkpoint, 0\.1 asked\)"
    ):
        finetune.run(config(tiles, tmp_path / "parts", **{**recipe, "mixup": 0.1}, resume=True))
    capsys.readouterr()
    assert finetune.run(config(tiles, tmp_path / "parts", **recipe, resume=True))
    assert "resuming after epoch 2" in capsys.readouterr().out
    metrics, weights = ([tmp_path / run / name for run in ("whole", "parts")] for name in OUTPUTS)
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    whole, parts = (read_state(file) for file in weights)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def killed_after(epochs: int):
    """Keep the state of so many epochs, and be interrupted after the last."""
    seen = []

    def save(*values: object) -> None:
        save_state(*values)
        seen.append(1)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    return save


def test_a_damaged_checkpoint_is_named(tiles: Path, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half a che")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged"):
        finetune.run(config(tiles, tmp_path, resume=True))
