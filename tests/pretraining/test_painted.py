"""The painted task: windows and labels, its loss by value, and the recipe of the weights that are shipped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from wsi_vmamba.config.pretrain import PaintedSettings, PretrainConfig
from wsi_vmamba.datasets.synthetic import TISSUES, sample_tiles
from wsi_vmamba.errors import ConfigError, TrainingError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.pipelines import pretrain
from wsi_vmamba.pretraining import painted_tiles
from wsi_vmamba.pretraining.batch import Painted
from wsi_vmamba.pretraining.painted_task import painted_loss
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.source import Source, batches_of
from wsi_vmamba.pretraining.weights_file import packed, start


def _coded(squares: int):
    """A tile whose pixels and tissue map both hold the index (row + column) of their 8 px square, modulo 10."""
    tissue = np.add.outer(np.arange(squares), np.arange(squares)).astype(np.uint8) % 10
    image = np.repeat(np.repeat(tissue, 8, axis=0), 8, axis=1)
    return np.stack([image] * 3, axis=2), tissue


@pytest.mark.parametrize("shrink", [1, 2])
def test_window_and_labels_stay_together(shrink):
    image, tissue = _coded(64)
    for seed in range(5):
        window, labels = painted_tiles.view(
            np.random.default_rng(seed), image, tissue, side_px=128, shrink=shrink
        )
        assert window.shape == (128, 128, 3)
        assert labels.shape == (16, 16)
        if shrink == 1:
            np.testing.assert_array_equal(window[::8, ::8, 0], labels)
        else:
            # Two squares of the tile lie in 8 px; the label is that of the second of them.
            np.testing.assert_array_equal(window[4::8, 4::8, 0], labels)


def test_soft_target_is_the_share_of_each_tissue():
    squares = np.zeros((8, 4), dtype=np.uint8)
    squares[:2, :2] = 3
    squares[4:] = 9
    target = painted_tiles.soft_target(squares)
    assert target.shape == (2, 1, len(TISSUES))
    assert target[0, 0, 3] == pytest.approx(0.25)
    assert target[0, 0, 0] == pytest.approx(0.75)
    assert target[1, 0, 9] == 1.0


def test_disturbed_tiles_differ_in_colour_and_keep_their_structure():
    rng = np.random.default_rng(0)
    image = np.full((64, 64, 3), 235, dtype=np.uint8)
    image[16:48, 16:48] = (90, 60, 130)
    first, second = painted_tiles.disturb(rng, image), painted_tiles.disturb(rng, image)
    assert not np.array_equal(first, second)
    for result in (first, second):
        assert result.dtype == np.uint8
        assert result[24:40, 24:40].mean() + 25 < result[:8, :8].mean()


class Maps(nn.Module):
    """A learner whose map is given, with a classifier that hands channels on."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps
        self.backbone = nn.Module()
        self.backbone.classifier = nn.Sequential()
        self.backbone.classifier.add_module("head", nn.Identity())

    def feature_map(self, pixels):
        return self.maps


def test_the_loss_is_the_cross_entropy_of_squares():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 1, 2)).astype(np.float32)  # B, tissues, h, w
    target = rng.dirichlet(np.ones(3), size=(2, 1, 2)).astype(np.float32)
    windows = Painted(images=torch.zeros(2, 32, 64, 3), target=torch.from_numpy(target))
    loss, features = painted_loss(Maps(torch.from_numpy(logits)), windows)
    last = logits.transpose(0, 2, 3, 1)
    logp = last - np.log(np.exp(last).sum(axis=-1, keepdims=True))
    assert loss.item() == pytest.approx(-(target * logp).sum(axis=-1).mean(), rel=1e-5)
    np.testing.assert_allclose(features, logits.mean(axis=(2, 3)), rtol=1e-5)


@pytest.fixture
def fake_tiles(monkeypatch):
    """Tiles that are quick to make: each chunk is of one colour and one tissue, which are its seed."""

    def fake(seed, n, size_px, *, difficulty=0.5):
        images = np.full((n, size_px, size_px, 3), seed % 251, np.uint8)
        tissue = np.full((n, size_px // 8, size_px // 8), seed % len(TISSUES), np.uint8)
        return type("Tiles", (), {"images": images, "tissue": tissue})

    monkeypatch.setattr(painted_tiles, "sample_tiles", fake)
    monkeypatch.setattr(painted_tiles, "disturb", lambda rng, image: image)


SMALL = PaintedSettings(batch=4, wide_every=3, chunks=2, renew_steps=2)


def test_windows_are_a_function_of_the_step_and_of_the_rank(fake_tiles):
    def made(first, rank=0, world=1):
        return list(painted_tiles.windows(SMALL, seed=1, first=first, last=7, rank=rank, world=world))

    whole, rest = made(0), made(3)
    assert [len(step.images) for step in whole] == [1, 4, 4, 1, 4, 4, 1]
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.target, other.target)
    # Chunks of two ranks have no seed in common.
    seeds = [{int(image[0, 0, 0]) for step in made(0, rank, 2) for image in step.images} for rank in (0, 1)]
    assert not seeds[0] & seeds[1]


def test_beside_another_objective_the_task_comes_every_so_many_steps(fake_tiles):
    config = PretrainConfig(painted_weight=0.3, painted_every=3, painted=SMALL, steps=8)

    def made(first):
        return dict(batches_of(Source(), config, Ranks(), first=first, last=8))

    whole = made(0)
    assert [step for step, batch in whole.items() if batch.painted is not None] == [0, 3, 6]
    for first in (1, 3, 4):
        for step, batch in made(first).items():
            if batch.painted is not None:
                assert torch.equal(batch.painted.images, whole[step].painted.images)


def test_a_classifier_of_the_same_tissues_is_kept_and_any_other_is_new(tmp_path):
    model, _ = start("vmamba_pico", "random", classes=TISSUES, seed=1)
    file = tmp_path / "painted.safetensors"
    file.write_bytes(packed(model.state_dict(), name="vmamba_pico", classes=TISSUES, facts={}))
    head = model.classifier.head.weight.half().float()
    again, _ = start("vmamba_pico", str(file), classes=TISSUES, seed=2)
    assert torch.equal(again.classifier.head.weight, head)
    other, _ = start("vmamba_pico", str(file), classes=TISSUES[::-1], seed=2)
    assert not torch.equal(other.classifier.head.weight, head)
    assert torch.equal(other.patch_embed[0].weight, model.patch_embed[0].weight.half().float())
    without, _ = start("vmamba_pico", str(file), classes=(), seed=2)
    assert without.classifier.head.weight.shape == (1, 256)
    assert not without.classifier.head.weight.any()
    assert not without.classifier.head.weight.requires_grad


def test_the_task_is_no_second_loss_beside_itself():
    with pytest.raises(ConfigError, match="painted is the task itself"):
        PretrainConfig(objective="painted", painted_weight=0.3)


def content_of(path):
    """Tensors as bytes, and what is said of them."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.slow
def test_recipe_trains_resumes_and_writes_weights_that_load(tmp_path, monkeypatch):
    settings = PaintedSettings(batch=4, wide_every=2, chunks=1, held_out=1)
    config = PretrainConfig(
        objective="painted", init="random", out=str(tmp_path / "work"), steps=2, checkpoint_steps=1, ema=0.0, seed=1,
        learning_rate=1.5e-3, warmup_steps=1, painted=settings, device="cpu",
    )  # fmt: skip
    few = sample_tiles(5, 12, 512)
    monkeypatch.setattr("wsi_vmamba.pretraining.run.held_out_tiles", lambda count: [few])
    assert pretrain.run(config)
    path = tmp_path / "work" / "weights.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        assert facts["data"].startswith("synthetic only")
        assert json.loads(facts["settings"])["seed"] == 1
        assert "far_square_accuracy" in json.loads(facts["held_out_accuracy"])
    model = build_backbone("vmamba_pico", weights=path)
    fresh = build_backbone("vmamba_pico", num_classes=len(TISSUES), seed=1)
    assert set(model.state_dict()) == set(fresh.state_dict())
    # Stored as float16: two steps are too few to be seen in what starts at one.
    pairs = zip(model.parameters(), fresh.parameters(), strict=True)
    matrices = [(a, b.half().float()) for a, b in pairs if a.ndim > 1]
    assert np.mean([not torch.equal(a, b) for a, b in matrices]) > 0.8
    again = config.changed(out=str(tmp_path / "again"))
    assert pretrain.run(again)
    assert content_of(tmp_path / "again" / "weights.safetensors") == content_of(path)
    with pytest.raises(TrainingError, match=r"seed: 1 in the checkpoint, 2 asked"):
        pretrain.run(config.changed(seed=2, resume=True))
