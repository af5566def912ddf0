"""Serves a command in forked processes that kill themselves at a chosen place: one JSON request a line.

A request is [arguments, place, count]; the process sends itself SIGKILL the ``count``-th time it comes to ``place``.
The answer is how it ended: the exit code, or minus the signal. Forking saves importing everything each time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from wsi_vmamba import cli


def serve(plant: Callable[[str, int], None]) -> None:
    """Answer requests until standard input ends; ``plant`` puts the kill where it is wanted."""
    for line in sys.stdin:
        arguments, place, count = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(arguments, place, count, plant)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], place: str | None, count: int, plant: Callable[[str, int], None]) -> None:
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
