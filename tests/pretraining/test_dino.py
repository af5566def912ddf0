"""Self-distillation by value: the loss in numpy, the centre, the held prototypes, and what counts as a collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsi_vmamba.config.pretrain import DinoSettings
from wsi_vmamba.pretraining.heads import PrototypeHead
from wsi_vmamba.pretraining.objectives.base import Moment
from wsi_vmamba.pretraining.objectives.dino import Dino, cross_views
from wsi_vmamba.pretraining.ranks import Ranks

SETTINGS = DinoSettings(
    prototypes=3, student_temperature=0.5, first_teacher_temperature=0.1, teacher_temperature=0.2,
    temperature_steps=10, centre_momentum=0.75, freeze_steps=2,
)  # fmt: skip


class Table(nn.Module):
    """A learner whose pixels are its answers: views hold the logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def features(self, pixels):
        return pixels


class Answers:
    def __init__(self, large, small):
        self.large, self.small = large, small


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_loss_is_the_mean_over_pairs_of_other_views():
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=(2, 4, 3)), rng.normal(size=(3, 4, 3))
    centre = np.array([0.3, -0.2, 0.1])
    objective = Dino(SETTINGS, dim=3)
    objective.centre.copy_(torch.tensor(centre))
    views = Answers(
        *(tuple(torch.tensor(view, dtype=torch.float32) for view in group) for group in (large, small))
    )
    outcome = objective(Table(), Table(), views, Moment(step=5, total=100), Ranks())
    teacher = softmax((large - centre) / 0.15)  # half way from 0.1 to 0.2
    student = np.log(softmax(np.concatenate([large, small]) / 0.5))
    pairs = [-(teacher[t] * student[s]).sum(axis=-1).mean() for t in range(2) for s in range(5) if s != t]
    assert outcome.loss.item() == pytest.approx(np.mean(pairs), rel=1e-6)
    entropy = -(teacher * np.log(teacher)).sum(axis=-1).mean()
    mean = teacher.reshape(-1, 3).mean(axis=0)
    assert outcome.numbers["teacher_entropy"].item() == pytest.approx(entropy, rel=1e-6)
    assert outcome.numbers["prototypes_used"].item() == pytest.approx(np.exp(-(mean * np.log(mean)).sum()))
    np.testing.assert_allclose(
        objective.centre, 0.75 * centre + 0.25 * large.reshape(-1, 3).mean(axis=0), rtol=1e-6
    )


def test_a_loss_by_hand():
    # Two large views of one square, two prototypes; each answers for the other.
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    said = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    by_hand = (math.log(2) + math.log(4)) / 2
    assert cross_views(target, said, batch=1).item() == pytest.approx(by_hand)


def test_the_teacher_gets_warmer_and_then_stays():
    objective = Dino(SETTINGS, dim=3)
    assert [objective.teacher_temperature(s) for s in (0, 5, 10, 99)] == pytest.approx([0.1, 0.15, 0.2, 0.2])


def test_prototypes_are_held_in_the_first_steps():
    objective = Dino(SETTINGS, dim=3)
    learner = nn.Module()
    learner.head = objective.head()
    for step, held in ((0, True), (1, True), (2, False)):
        learner.head(torch.randn(4, 3)).sum().backward()
        objective.before_update(learner, Moment(step=step, total=9))
        assert (learner.head.prototypes.grad is None) == held


def test_the_head_gives_cosines_whatever_the_length_of_a_prototype():
    torch.manual_seed(0)
    head = PrototypeHead(dim=5, hidden=7, bottleneck=4, n_prototypes=3)
    features = torch.randn(6, 5)
    point = head.mlp(features)
    expected = torch.stack([F.cosine_similarity(point, row[None]) for row in head.prototypes], dim=1)
    before = head(features)
    torch.testing.assert_close(before, expected)
    with torch.no_grad():
        head.prototypes.mul_(torch.tensor([[2.0], [0.5], [9.0]]))
    torch.testing.assert_close(head(features), before)


@pytest.mark.parametrize(
    ("used", "entropy", "words"),
    [(1.5, 0.0, "1.50 prototypes"), (3.0, math.log(3), "all prototypes alike"), (2.9, 0.9, "")],
)
def test_collapse_is_one_prototype_or_all_alike(used, entropy, words):
    said = Dino(SETTINGS, dim=3).collapse({"prototypes_used": used, "teacher_entropy": entropy})
    assert words in said
    assert bool(said) == bool(words)
