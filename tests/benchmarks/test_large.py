"""The benchmark of large models at its smallest: checkpointing changes no gradient, two processes are one."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_checkpointing_and_two_processes(load):
    found = load("large").main(["--model", "vmamba_pico", "--px", "64", "--ddp-px", "32"])
    plain, checkpointed = found["steps"].values()
    assert plain["parameters"] == checkpointed["parameters"] > 2e6
    assert plain["gradient"] == checkpointed["gradient"] > 0
    assert found["difference"] < 1e-5
