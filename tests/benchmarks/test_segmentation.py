"""The benchmark runs at its smallest size, and its table holds what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "segmentation.py"


@pytest.mark.slow
def test_quick_run_writes_every_figure(tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "--quick",
        "--sides",
        "512",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cost"]["512"]["cpu_s"] > 0
    assert [row["region_px"] for row in figures["scores"]] == [256, 10_000]
    for row in figures["scores"]:
        assert 0 <= row["iou"] <= row["dice"] <= 1
        assert f"| {row['region_px']} px | {row['dice']:.3f}" in done.stdout
