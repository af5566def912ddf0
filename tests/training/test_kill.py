"""A training is killed by SIGKILL, wherever it may be, and resumed: the weights are those of one never killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from wsi_vmamba.durable import partial_mark

TRAIN = """
import sys
from pathlib import Path
import numpy as np, torch
from wsi_vmamba.bags import Bag
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import TrainSettings, train
torch.set_num_threads(1)
generator = np.random.default_rng(0)
places = np.stack([np.arange(60) % 8, np.arange(60) // 8], axis=1).astype(np.int64)
bags = {
    f"s{i:02}": Bag(
        slide_id=f"s{i:02}", features=generator.normal(size=(60, 16)).astype(np.float32), coords_l0=places * 512,
        patch_l0=512.0,
    )
    for i in range(12)
}
records = [SlideRecord(slide_id=name, label=i % 2) for i, name in enumerate(bags)]
settings = TrainSettings(aggregator="ss2d", epochs=12, patience=12, hidden_dim=16, ema_decay=0.9, dropout=0.3)
train(records, lambda r: bags[r.slide_id], settings, Path(sys.argv[1]), resume=True)
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(folder)])


def epochs_done(folder) -> int:
    metrics = folder / "metrics.csv"
    return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed_to_the_byte(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole).wait() == 0
    for wanted, delay_s in ((2, 0.0), (5, 0.013)):  # at a checkpoint, and somewhere inside an epoch
        process = start(parts)
        while epochs_done(parts) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed_at = epochs_done(parts)
    assert 5 <= killed_at < 12
    # As a kill in the middle of a write leaves it, whether or not one of these was.
    (parts / f".checkpoint.pt{partial_mark()}{process.pid}-0").write_bytes(b"half")
    assert start(parts).wait() == 0
    for name in ("best.safetensors", "metrics.csv", "model.json", "splits.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}
