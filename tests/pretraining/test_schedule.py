from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wsi_vmamba.pretraining.learner import average_of, move_towards
from wsi_vmamba.pretraining.schedule import cosine, learning_rate, momentum, ramp


def test_learning_rate_rises_and_falls_to_its_share():
    at = [learning_rate(step, peak=2.0, warmup=4, total=12, final_share=0.25) for step in (0, 1, 3, 4, 8, 12)]
    assert at == pytest.approx([0.5, 1.0, 2.0, 2.0, 1.25, 0.5])


def test_a_warmup_longer_than_the_training_leaves_one_step():
    at = [learning_rate(step, peak=1.0, warmup=100, total=3, final_share=0.0) for step in range(3)]
    assert at == pytest.approx([0.5, 1.0, 1.0])


def test_cosine_and_ramp_hit_their_ends():
    assert cosine(0, total=10, first=0.9, last=1.0) == pytest.approx(0.9)
    assert cosine(5, total=10, first=0.9, last=1.0) == pytest.approx(0.95)
    assert cosine(10, total=10, first=0.9, last=1.0) == pytest.approx(1.0)
    assert [ramp(s, steps=4, first=1.0, last=3.0) for s in (0, 1, 4, 9)] == pytest.approx(
        [1.0, 1.5, 3.0, 3.0]
    )
    assert ramp(0, steps=0, first=1.0, last=3.0) == 3.0


def test_momentum_of_a_teacher_and_of_a_mere_average():
    assert momentum(0, first=0.996, total=100, ramps=False) == pytest.approx(0.996)
    expected = 1 - 0.004 * 0.5 * (1 + math.cos(math.pi * 0.25))
    assert momentum(25, first=0.996, total=100, ramps=False) == pytest.approx(expected)
    assert momentum(0, first=0.996, total=100, ramps=True) == pytest.approx(0.1)
    assert momentum(8, first=0.996, total=10_000, ramps=True) == pytest.approx(0.5)
    assert momentum(50, first=0.0, total=100, ramps=False) == 0.0


def test_the_average_moves_exactly_as_far():
    learner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = average_of(learner)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    with torch.no_grad():
        average[0].weight.fill_(1.0)
        learner[0].weight.fill_(5.0)
    learner[1].running_mean.fill_(7.0)
    move_towards(average, learner, momentum=0.75)
    assert torch.equal(average[0].weight, torch.full((2, 2), 2.0))
    assert torch.equal(average[1].running_mean, torch.full((2,), 7.0))
    assert torch.equal(learner[0].weight, torch.full((2, 2), 5.0))
    move_towards(average, learner, momentum=0.0)
    assert torch.equal(average[0].weight, learner[0].weight)
