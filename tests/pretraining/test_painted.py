from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from wsi_vmamba.datasets.synthetic import TISSUES
from wsi_vmamba.model import build_backbone
from wsi_vmamba.pipelines import pretrain_pico
from wsi_vmamba.training import pretrain_tiles


def _coded(squares: int):
    """A tile whose pixels and tissue map both hold the index (row + column) of their 8 px square, modulo 10."""
    tissue = np.add.outer(np.arange(squares), np.arange(squares)).astype(np.uint8) % 10
    image = np.repeat(np.repeat(tissue, 8, axis=0), 8, axis=1)
    return np.stack([image] * 3, axis=2), tissue


@pytest.mark.parametrize("shrink", [1, 2])
def test_window_and_labels_stay_together(shrink):
    image, tissue = _coded(64)
    for seed in range(5):
        window, labels = pretrain_tiles.view(
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
    target = pretrain_tiles.soft_target(squares)
    assert target.shape == (2, 1, len(TISSUES))
    assert target[0, 0, 3] == pytest.approx(0.25)
    assert target[0, 0, 0] == pytest.approx(0.75)
    assert target[1, 0, 9] == 1.0


def test_disturbed_tiles_differ_in_colour_and_keep_their_structure():
    rng = np.random.default_rng(0)
    image = np.full((64, 64, 3), 235, dtype=np.uint8)
    image[16:48, 16:48] = (90, 60, 130)
    first, second = pretrain_tiles.disturb(rng, image), pretrain_tiles.disturb(rng, image)
    assert not np.array_equal(first, second)
    for result in (first, second):
        assert result.dtype == np.uint8
        assert result[24:40, 24:40].mean() + 25 < result[:8, :8].mean()


def content_of(path):
    """Tensors as bytes, and what is said of them; safetensors writes the latter in any order."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.slow
def test_recipe_trains_resumes_and_writes_weights_that_load(tmp_path, monkeypatch):
    settings = pretrain_tiles.Settings(
        seed=1, steps=2, batch=4, wide_every=2, tile_px=512, chunks=1, checkpoint_steps=1
    )
    monkeypatch.setattr(pretrain_pico, "held_out_tiles", lambda: [pretrain_tiles.sample_tiles(5, 12, 512)])
    path = pretrain_pico.run(settings, out=tmp_path / "weights", work=tmp_path / "work")
    assert path.stat().st_size < 6_000_000
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        assert facts["data"].startswith("synthetic only")
        assert json.loads(facts["settings"])["seed"] == 1
    model = build_backbone("vmamba_pico", weights=path)
    fresh = build_backbone("vmamba_pico", num_classes=len(TISSUES), seed=1)
    assert set(model.state_dict()) == set(fresh.state_dict())
    # Stored as float16: two steps are too few to be seen in what starts at one.
    pairs = zip(model.parameters(), fresh.parameters(), strict=True)
    matrices = [(a, b.half().float()) for a, b in pairs if a.ndim > 1]
    assert np.mean([not torch.equal(a, b) for a, b in matrices]) > 0.8
    again = pretrain_pico.run(settings, out=tmp_path / "again", work=tmp_path / "work")
    assert content_of(again) == content_of(path)
    with pytest.raises(SystemExit, match="other settings"):
        pretrain_pico.run(
            pretrain_tiles.Settings(seed=2, steps=2), out=tmp_path / "again", work=tmp_path / "work"
        )
