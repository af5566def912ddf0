"""The measured task: targets of unit spread, what it teaches, and as a task beside another objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.errors import ConfigError, UsageError
from wsi_vmamba.pretraining.batch import Batch
from wsi_vmamba.pretraining.log import read_lines
from wsi_vmamba.pretraining.measured_task import MeasuredTask
from wsi_vmamba.pretraining.measurements import COUNT, measure
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.run import begin
from wsi_vmamba.pretraining.source import Source, measures
from wsi_vmamba.pretraining.view_settings import ViewSettings


@pytest.fixture
def measured_source(fake_source):
    """Views as of `fake_source`, measured."""

    def source(config):
        def crops(first, last):
            for step, views in fake_source(config).crops(first, last):
                numbers = np.stack([measure(picture.numpy()) for picture in views.large[0]])
                yield step, Batch(large=views.large, small=views.small, measured=torch.from_numpy(numbers))

        return Source(slide_ids=("a", "b"), fingerprint="of a and b", crops=crops)

    return source


def test_every_number_counts_in_units_of_its_own_spread():
    """A layer that says nothing has the loss of unit normal numbers, whatever their scales, and all of them alike."""
    torch.manual_seed(0)
    task = MeasuredTask(dim=4)
    torch.nn.init.zeros_(task.read.weight)
    torch.nn.init.zeros_(task.read.bias)
    scale, shift = torch.logspace(-2, 3, COUNT), torch.linspace(-50, 50, COUNT)
    losses = [
        task.loss(torch.zeros(64, 4), torch.randn(64, COUNT) * scale + shift, Ranks()).item()
        for _ in range(100)
    ]
    normal = torch.randn(1_000_000)
    expected = float(torch.nn.functional.huber_loss(torch.zeros_like(normal), normal))
    assert np.mean(losses[50:]) == pytest.approx(expected, rel=0.03)
    # The moments are those of what was seen: numbers of another scale are far off by them.
    assert task.loss(torch.zeros(64, 4), 10 * torch.randn(64, COUNT) * scale + shift, Ranks()).item() > 2


def test_a_layer_learns_what_the_features_say():
    torch.manual_seed(0)
    task, hidden = MeasuredTask(dim=8), torch.randn(8, COUNT)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    for _ in range(200):
        features = torch.randn(64, 8)
        loss = task.loss(features, 7 + 3 * features @ hidden, Ranks())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


@pytest.mark.slow
def test_alone_and_beside_another_objective(config, measured_source, tmp_path):
    alone = config.changed(objective="measured", out=str(tmp_path / "alone"), log_steps=1)
    beside = config.changed(measured_weight=2.0, out=str(tmp_path / "beside"), log_steps=1)
    for settings in (alone, beside):
        assert measures(settings)
        for _ in begin(settings, measured_source(settings), ranks=Ranks(), device="cpu").reports:
            pass
    assert all("measured_loss" not in line for line in read_lines(tmp_path / "alone" / "log.jsonl"))
    assert all(line["measured_loss"] > 0 for line in read_lines(tmp_path / "beside" / "log.jsonl"))
    state = torch.load(tmp_path / "beside" / "checkpoint.pt", weights_only=True)["student"]
    assert state["measured.read.weight"].shape[0] == COUNT
    assert not measures(config)


def test_the_second_loss_reaches_the_backbone(config, measured_source):
    """With its weight the gradient of the first step is another one; without views that were measured it is not."""

    def gradient(settings, source) -> float:
        list(begin(settings, source, ranks=Ranks(), device="cpu").reports)
        return read_lines(Path(settings.out) / "log.jsonl")[0]["gradient_norm"]

    source = measured_source(config)

    def without(first, last):
        return ((step, replace(batch, measured=None)) for step, batch in source.crops(first, last))

    plain, second, unmeasured = (
        gradient(
            config.changed(out=f"{config.out}-{name}", steps=1, log_steps=1, measured_weight=weight), given
        )
        for name, weight, given in (
            ("plain", 0.0, source),
            ("second", 1e5, source),
            ("unmeasured", 1e5, replace(source, crops=without)),
        )
    )
    assert second != pytest.approx(plain, rel=1e-3)
    assert unmeasured == pytest.approx(plain, rel=1e-6)


def test_what_cannot_be_is_refused(config, fake_source):
    with pytest.raises(ConfigError, match="measured is the task itself"):
        PretrainConfig(objective="measured", measured_weight=1)
    with pytest.raises(ConfigError, match="the objective painted reads none"):
        PretrainConfig(objective="painted", measured_weight=1)
    with pytest.raises(UsageError, match="n_large is 0"):
        ViewSettings(batch=2, n_large=0, measure=True)
