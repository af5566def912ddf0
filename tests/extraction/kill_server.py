"""Kills `wsi-vmamba extract` at a chosen place; see `tests/fork_server.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import zarr.storage._local as zarr_local

sys.path.append(str(Path(__file__).parents[1]))

from fork_server import serve

import wsi_vmamba.pipelines.extract  # noqa: F401  (imported before forking)
from wsi_vmamba import encode
from wsi_vmamba.inference import carries, scratch
from wsi_vmamba.slide.tiff import slide as tiff
from wsi_vmamba.store import journal


def plant(place: str, count: int) -> None:
    """Put the kill where it is wanted."""
    owner, name = PLACES[place.removesuffix(" after")]
    original = getattr(owner, name)
    calls = 0

    def deadly(*values: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != count:
            return original(*values, **options)
        if place == "write":  # a file half written
            path, content = values[0], bytes(values[1].to_bytes())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: len(content) // 2])
        if place == "scratch write":  # a strip half written
            (values[0].folder / f"{values[1]}.part").write_bytes(
                bytes(values[2][0][: len(values[2][0]) // 2])
            )
        if place == "journal":  # a region half written
            values[0].write(values[1][: len(values[1]) // 2])
        if place.endswith(" after"):
            original(*values, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    setattr(owner, name, deadly)


PLACES: dict[str, tuple[Any, str]] = {
    "decode": (tiff, "decode_tile"),
    "encode": (encode.ColourEncoder, "encode"),
    "write": (zarr_local, "_put"),
    "journal": (journal, "write_all"),
    "scratch write": (scratch.Scratch, "_write"),
    "scratch drop": (scratch.Scratch, "drop"),
    "scratch remove": (scratch.shutil, "rmtree"),
    "carries write": (carries.CarriesInFiles, "_write"),
    "carries read": (carries.CarriesInFiles, "_read"),
    "fsync": (os, "fsync"),
    "rename": (Path, "rename"),
    "replace": (Path, "replace"),
    "link": (os, "link"),
    "unlink": (Path, "unlink"),
}

if __name__ == "__main__":
    serve(plant)
