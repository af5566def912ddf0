"""Trainings of several processes, and of one that is killed: the same result as one process that is left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wsi_vmamba.pretraining.log import read_lines

TRAIN = """
import json, os, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from conftest import _fake_source as fake_source
from wsi_vmamba.config.pretrain import BarlowTwinsSettings, DinoSettings, PretrainConfig
from wsi_vmamba.pretraining.ranks import joined
from wsi_vmamba.pretraining.run import begin

torch.set_num_threads(1)
config = PretrainConfig(
    init="random", warmup_steps=2, log_steps=1, precision="fp32", device="cpu",
    dino=DinoSettings(prototypes=16, hidden=16, bottleneck=8, freeze_steps=1, temperature_steps=4),
    barlow_twins=BarlowTwinsSettings(hidden=16, out=8), **json.loads(sys.argv[1]),
)
with joined("cpu") as (ranks, device):
    source = fake_source(config, rank=ranks.rank, world=ranks.world)
    for report in begin(config, source, ranks=ranks, device=device).reports:
        pass
"""


def start(settings, *, rank=None, world=2, port=0):
    environment = dict(os.environ)
    if rank is not None:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
        environment |= {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}
    code = TRAIN.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(settings)], env=environment)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three processes on what may be a busy machine
@pytest.mark.parametrize("objective", ["dino", "barlow_twins"])
def test_two_processes_learn_what_one_learns_from_twice_the_batch(objective, tmp_path):
    shared = {"objective": objective, "steps": 3}
    one, two = tmp_path / "one", tmp_path / "two"
    port = free_port()
    processes = [
        start({**shared, "out": str(one), "batch": 4}),
        *(start({**shared, "out": str(two), "batch": 2}, rank=rank, port=port) for rank in (0, 1)),
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for a, b in zip(read_lines(one / "log.jsonl"), read_lines(two / "log.jsonl"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-2)
    first, last = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["student"] for folder in (one, two)
    )
    # Adam makes whole steps of gradients that are mere rounding, so a few numbers may differ, but not all.
    far = torch.cat([(first[key] - last[key]).abs().flatten() for key in first])
    assert float(far.mean()) < 1e-5
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three processes on what may be a busy machine
def test_killed_and_resumed_equals_undisturbed_to_the_byte(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    shared = {"steps": 8, "batch": 2, "checkpoint_steps": 2, "resume": True}
    assert start({**shared, "out": str(whole)}).wait() == 0
    for wanted in (3, 5):
        process = start({**shared, "out": str(parts)})
        while len(read_lines(parts / "log.jsonl")) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert len(read_lines(parts / "log.jsonl")) < 8
    assert start({**shared, "out": str(parts)}).wait() == 0
    assert (parts / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    without_pace = [
        [{key: value for key, value in line.items() if key != "images_per_s"} for line in read_lines(log)]
        for log in (parts / "log.jsonl", whole / "log.jsonl")
    ]
    assert without_pace[0] == without_pace[1]
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}
