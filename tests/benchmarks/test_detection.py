"""The benchmark runs at its smallest size, and its lines hold what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "detection.py"


@pytest.mark.slow
def test_quick_run_writes_every_figure(tmp_path):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, AttributeError):  # built for another torch it ends in a RuntimeError
        pytest.skip(
            "torchvision is not installed, or not for this torch: pip install 'wsi-vmamba[detection]'"
        )
    sizes = ["--quick", "--pictures", "1", "--large-px", "160", "--windows", "128", "256"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--json", str(tmp_path / "figures.json")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["best_epoch"] == 1
    assert figures["pictures"]["nuclei"] > 20
    assert 0 <= figures["pictures"]["masks"] <= figures["pictures"]["masks_at_half"] <= 1
    assert f"masks at 0.5 {figures['pictures']['masks_at_half']:.3f}" in done.stdout
    assert [row["window_px"] for row in figures["large"]] == [128, 256]
    for row in figures["large"]:
        assert set(row["of_kinds"]) <= {"lymphocyte", "epithelial", "spindle"}
        assert f"| {row['window_px']} px | {row['masks_at_half']:.3f} |" in done.stdout
