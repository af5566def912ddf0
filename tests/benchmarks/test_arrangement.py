"""The benchmark of arrangements: both slides of a pair hold the same patches, and a line says what a training gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_vmamba.datasets.synthetic import ArrangementSpec
from wsi_vmamba.datasets.synthetic.arrangement import TUMOUR_BLOCKS, lay_out


def numbered(pairs: int) -> np.ndarray:
    """Features of blocks: which block it is, and of which pair."""
    block, pair = np.meshgrid(np.arange(64), np.arange(pairs))
    return np.stack([block, pair], axis=-1).astype(np.float32)


def test_patches_lie_where_the_layout_says_and_are_those_of_one_pair(load):
    spec = ArrangementSpec(pairs=4, blocks=8, seed=3)
    bags = load("arrangement")._bags(spec, numbered(6))
    assert list(bags) == [f"{pair:03d}-{label}" for pair in range(4) for label in (1, 0)]
    for name, bag in bags.items():
        columns, rows = bag.coords_grid.T
        grid = np.empty((8, 8))
        grid[rows, columns] = bag.features[:, 0]
        np.testing.assert_array_equal(grid, lay_out(spec, int(name[:3]), int(name[-1])))
    of = [bags[f"{pair:03d}-1"].features[0, 1] for pair in range(4)]
    assert len(set(of)) == 4
    assert [bags[f"{pair:03d}-0"].features[0, 1] for pair in range(4)] == of


def test_a_model_without_places_is_at_chance(load, tmp_path: Path, capsys):
    blocks = np.random.default_rng(0).normal(size=(4, 64, 8)).astype(np.float32)
    blocks[:, :TUMOUR_BLOCKS, 0] += 5
    np.save(tmp_path / "near-far-4-vmamba_pico.npy", blocks)
    load("arrangement").main(
        ["--aggregators", "abmil", "--pairs", "4", "--seeds", "1", "--epochs", "2", "--out", str(tmp_path)]
    )
    line = capsys.readouterr().out.splitlines()[-1].split("\t")
    assert line == ["near-far", "abmil", "4", "0", "0.500", "0.500", "0.500"]
