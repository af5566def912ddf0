"""Kills `wsi-vmamba predict` at a chosen place; see `tests/fork_server.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))

from fork_server import serve

import wsi_vmamba.pipelines.predict  # noqa: F401  (imported before forking)
from wsi_vmamba import encode
from wsi_vmamba.prediction.predictor import Predictor

PLACES: dict[str, tuple[Any, str]] = {
    "encode": (encode.ColourEncoder, "encode"),
    "predict": (Predictor, "predict"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
}


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
    torch.set_num_threads(1)  # a fork has no other threads
    serve(plant)
