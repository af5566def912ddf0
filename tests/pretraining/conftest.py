from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from wsi_vmamba.config.pretrain import DinoSettings, PretrainConfig
from wsi_vmamba.pretraining.source import Source


@dataclass(frozen=True)
class FakeCrops:
    large: tuple[Tensor, ...]
    small: tuple[Tensor, ...]
    measured: Tensor | None = None


def crops_of(seed: int, step: int, *, batch: int, first: int = 0) -> FakeCrops:
    """Views that are a function of seed and step: coloured noise, one base colour for each square of the batch."""

    def views(count: int, px: int) -> tuple[Tensor, ...]:
        made = []
        for view in range(count):
            squares = []
            for square in range(first, first + batch):
                generator = torch.Generator().manual_seed(seed * 7919 + step * 101 + square)
                colour = torch.randint(40, 200, (3,), generator=generator)
                generator.manual_seed(seed * 7919 + step * 101 + square * 13 + view + px)
                noise = torch.randint(0, 50, (px, px, 3), generator=generator)
                squares.append((colour + noise).to(torch.uint8))
            made.append(torch.stack(squares))
        return tuple(made)

    return FakeCrops(views(2, 32), views(1, 16))


def _fake_source(config: PretrainConfig, *, rank: int = 0, world: int = 1) -> Source:
    """A source without slides; the batch of all ranks together is that of one process with `world` times the batch."""

    def batches(first: int, last: int):
        for step in range(first, last):
            yield step, crops_of(config.seed, step, batch=config.batch, first=rank * config.batch)

    return Source(slide_ids=("a", "b"), fingerprint="of a and b", crops=batches)


@pytest.fixture
def config(tmp_path):
    return PretrainConfig(
        out=str(tmp_path / "run"), init="random", steps=6, batch=3, warmup_steps=2, log_steps=2, checkpoint_steps=2,
        precision="fp32", device="cpu",
        dino=DinoSettings(prototypes=16, hidden=16, bottleneck=8, freeze_steps=1, temperature_steps=4),
    )  # fmt: skip


@pytest.fixture
def fake_source():
    return _fake_source
