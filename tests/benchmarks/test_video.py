"""The benchmark of clips: both networks do the same work, counted by hand, and both are measured."""

from __future__ import annotations

import torch

from wsi_vmamba.model import VMambaConfig
from wsi_vmamba.volume.network import VMamba3D


def test_multiply_adds_are_those_counted_by_hand(load):
    model = VMamba3D(VMambaConfig(depths=(1,), dims=(16,), num_classes=3)).eval()
    places, tokens = (
        3 * 16 * 16,
        3 * 8 * 8,
    )  # of three frames of 32 px: after the first convolution, after the stem
    stem = places * 8 * 27 + tokens * 16 * 8 * 9
    matrices = 2 * 16 * 16 + 2 * 16 * 64
    scan = 6 * (3 * 16 + 16) + 6 * 16 * 5
    depthwise = 16 * 9 + 16 * 3
    counted = load("video").multiply_adds(model, torch.randn(1, 3, 3, 32, 32))
    assert counted == stem + tokens * (matrices + scan + depthwise) + 16 * 3


def test_the_smallest_run(load, capsys):
    found = load("video").main(["--frames", "2", "--px", "32", "--passes", "1"])
    ours, other = (found["networks"]["multiply_adds"][name] for name in ("vmamba", "conv3d"))
    assert abs(ours - other) < 0.1 * ours
    assert "times the frames of the convolutions" in capsys.readouterr().out
    assert found["networks"]["ratio"] > 0
