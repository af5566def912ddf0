"""The benchmark runs, and its figures are those of its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "aggregators.py"


@pytest.mark.slow
def test_quick_run_writes_every_figure(tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path), "--levels", "large"]
    command += ["--aggregators", "abmil", "ss2d", "--supervision", "slide", "dense"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "aggregators-patches.json").read_text())["figures"]["large"]
    assert set(figures) == {"abmil, slide", "ss2d, slide", "dense"}
    assert figures["dense"][0]["froc"] > 0.5
    for label, runs in figures.items():
        assert 0 <= runs[0]["auc"] <= 1
        assert f"| {label} | {runs[0]['auc']:.3f} ± 0.000 |" in done.stdout
