"""Hooks, workflow and Makefile do the same checks, from one list each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def lint_commands() -> list[str]:
    recipe = re.search(r"(?m)^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert recipe
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]


def test_the_hooks_before_a_commit_are_those_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == lint_commands()
    assert not any(hook["pass_filenames"] for hook in hooks)


def test_the_workflow_runs_what_anybody_can_run() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == [".ci/run"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = {line.partition(" >")[0] for line in lines}
    assert {"make lint", "make docs", "make test", "make wheel-smoke"} <= commands


def test_make_help_lists_every_target_with_a_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"(?m)^\.PHONY: (.+)$", makefile)
    assert targets
    listed = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert all(re.fullmatch(r"make \S+ +\S.*", line) for line in listed)
    assert {line.split()[1] for line in listed} == set(targets[1].split())
