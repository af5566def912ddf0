"""Barlow Twins by value, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsi_vmamba.config.pretrain import BarlowTwinsSettings
from wsi_vmamba.errors import UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.heads import Projector
from wsi_vmamba.pretraining.objectives.barlow_twins import BarlowTwins, correlation_loss
from wsi_vmamba.pretraining.objectives.base import Moment
from wsi_vmamba.pretraining.ranks import Ranks


class Table(nn.Module):
    """A learner whose pixels are its features, and whose head hands them on."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def features(self, pixels):
        return pixels


def test_a_loss_by_hand():
    # The second number of one view is the first of the other, and the other way round.
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    on, off = correlation_loss(one, one.flip(1), weight=0.25)
    assert (on.item(), off.item()) == (1.0, 0.25)
    on, off = correlation_loss(one, one, weight=0.25)
    assert (on.item(), off.item()) == (0.0, 0.0)


def test_the_loss_is_the_mean_over_pairs_with_a_large_view():
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=(2, 6, 3)), rng.normal(size=(1, 6, 3))
    views = [(v - v.mean(axis=0)) / np.sqrt(v.var(axis=0) + 1e-5) for v in (*large, *small)]
    expected = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        c = views[a].T @ views[b] / 6
        rest = (c**2).sum() - (np.diag(c) ** 2).sum()
        expected.append(((1 - np.diag(c)) ** 2).sum() / 3 + 0.1 * rest / 3)
    batch = Batch(
        large=tuple(torch.tensor(v, dtype=torch.float32) for v in large),
        small=tuple(torch.tensor(v, dtype=torch.float32) for v in small),
    )
    objective = BarlowTwins(BarlowTwinsSettings(off_diagonal=0.1), dim=3)
    outcome = objective(Table(), Table(), batch, Moment(step=0, total=1), Ranks())
    assert outcome.loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    np.testing.assert_allclose(outcome.features, large.reshape(-1, 3), rtol=1e-6)


def test_one_square_is_refused_by_name():
    batch = Batch(large=(torch.zeros(1, 3), torch.zeros(1, 3)))
    with pytest.raises(UsageError, match="two squares"):
        BarlowTwins(BarlowTwinsSettings(), dim=3)(Table(), Table(), batch, Moment(step=0, total=1), Ranks())


def test_the_projector_normalises_by_its_batch_in_evaluation_too():
    torch.manual_seed(0)
    head, features = Projector(dim=4, hidden=8, out=2), torch.randn(5, 4)
    torch.testing.assert_close(head(features), head.eval()(features))
