"""The benchmark of large models at its smallest: checkpointing changes no gradient, two processes are one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "large.py"


@pytest.mark.slow
def test_checkpointing_and_two_processes():
    spec = importlib.util.spec_from_file_location("large", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main(["--model", "vmamba_pico", "--px", "64", "--ddp-px", "32"])
    plain, checkpointed = found["steps"].values()
    assert plain["parameters"] == checkpointed["parameters"] > 2e6
    assert plain["gradient"] == checkpointed["gradient"] > 0
    assert found["difference"] < 1e-5
