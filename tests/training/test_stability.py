"""Selective scans at three times the default learning rate, 500 steps: nothing may run away."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from wsi_vmamba.config import TrainConfig
from wsi_vmamba.config.presets import PRESETS
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.model import VMambaConfig, build_backbone
from wsi_vmamba.training import TrainSettings
from wsi_vmamba.training.optimise import parameter_groups

STEPS = 500


def run_steps(model, batches, loss_of, *, learning_rate: float) -> list[float]:
    settings = TrainSettings()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, weight_decay=settings.weight_decay), lr=learning_rate
    )
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, *batches[step % len(batches)])
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
    return losses


def check(model, losses: list[float]) -> None:
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert max(losses) < 10
    assert sum(losses[-50:]) < sum(losses[:50])
    for name, parameter in model.named_parameters():
        if name.endswith("A_logs"):
            assert parameter.dtype == torch.float32
            assert parameter.abs().max() < 5


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_aggregator(bf16):
    torch.manual_seed(0)
    model = AGGREGATORS.resolve("ss2d")(24, 2, hidden_dim=32)
    generator = torch.Generator().manual_seed(1)
    coords = torch.stack([torch.arange(150) % 15, torch.arange(150) // 15], dim=1)
    batches = []
    for index in range(8):
        features = 3 * torch.randn(150, 24, generator=generator)
        features[: 8 * (index % 2)] += 2.0
        batches.append((features, torch.tensor(index % 2)))

    def loss_of(model, features, label):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(features, coords).logits
        return F.cross_entropy(logits.float(), label)

    check(model, run_steps(model, batches, loss_of, learning_rate=3 * TrainConfig().learning_rate))


@pytest.mark.slow
def test_backbone():
    torch.manual_seed(0)
    config = VMambaConfig(dims=(16, 32, 64, 128), depths=(1, 1, 2, 1), num_classes=4)
    model = build_backbone(config)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(8):
        labels = torch.randint(4, (8,), generator=generator)
        images = torch.randn(8, 3, 64, 64, generator=generator)
        images += (labels - 1.5)[:, None, None, None]
        batches.append((images, labels))

    def loss_of(model, images, labels):
        return F.cross_entropy(model(images), labels)

    check(
        model,
        run_steps(
            model, batches, loss_of, learning_rate=3 * PRESETS["pretrain-painted"].values["learning_rate"]
        ),
    )
