from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from wsi_vmamba.pretraining.monitors import describe_collapse, effective_rank, feature_std


def test_spread_is_one_for_even_directions_and_zero_for_one():
    assert feature_std(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1.0)
    assert feature_std(torch.ones(6, 4)) == pytest.approx(0.0, abs=1e-6)
    # Two directions at a right angle, half each: the mean has length 1/√2.
    assert feature_std(torch.eye(2).repeat(3, 1)) == pytest.approx(math.sqrt(0.5))


def test_effective_rank_counts_directions():
    assert effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(4.0, rel=1e-5)
    line = torch.tensor([[1.0, 0.1], [1.0, -0.1]]).repeat(4, 1)
    assert effective_rank(line) == pytest.approx(1.0, rel=1e-5)
    assert effective_rank(torch.ones(6, 4)) == 0.0
    torch.manual_seed(0)
    features = torch.randn(20, 6)
    units = F.normalize(features, dim=1)
    values = torch.linalg.svdvals((units - units.mean(0)).double())
    shares = values / values.sum()
    assert effective_rank(features) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-4)


@pytest.mark.parametrize(
    ("std", "rank", "words"),
    [(0.01, 9.0, "nearly the same"), (0.5, 1.2, "one direction"), (0.5, 9.0, "")],
)
def test_collapse_in_words(std, rank, words):
    said = describe_collapse({"feature_std": std, "effective_rank": rank})
    assert words in said
    assert bool(said) == bool(words)
