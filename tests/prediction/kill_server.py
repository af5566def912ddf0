"""Runs `wsi-vmamba predict` in forked processes that kill themselves at a chosen place: a JSON request a line.

A request is [arguments, place, count]; the process sends itself SIGKILL the ``count``-th time it comes to ``place``.
The answer is how it ended: the exit code, or minus the signal. Forking saves importing everything each time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import wsi_vmamba.pipelines.predict  # noqa: F401  (imported before forking)
from wsi_vmamba import cli, encode
from wsi_vmamba.prediction.predictor import Predictor

PLACES: dict[str, tuple[Any, str]] = {
    "encode": (encode.ColourEncoder, "encode"),
    "predict": (Predictor, "predict"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
}


def main() -> None:
    """Answer requests until standard input ends."""
    torch.set_num_threads(1)  # a fork has no other threads
    for line in sys.stdin:
        arguments, place, count = json.loads(line)
        child = os.fork()
        if child == 0:
            run(arguments, place, count)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(arguments: list[str], place: str | None, count: int) -> None:
    """Be the command."""
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if place is not None:
        plant(place, count)
    sys.argv = ["wsi-vmamba", *arguments]
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    os._exit(code)


def plant(place: str, count: int) -> None:
    """Put the kill where it is wanted: before the call, or in the middle of it."""
    owner, name = PLACES[place.removesuffix(" after")]
    original = getattr(owner, name)
    calls = 0

    def deadly(*values: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not place.endswith(" after"):
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*values, **options)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, deadly)


if __name__ == "__main__":
    main()
