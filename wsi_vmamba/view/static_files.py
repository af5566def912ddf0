"""The viewer's own files: looked up in a table made when the server starts, so that no path comes from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_KINDS = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip


@dataclass(frozen=True)
class StaticFile:
    """One file, read."""

    data: bytes
    media_type: str
    tag: str


def load_static() -> Mapping[str, StaticFile]:
    """Read all of them: path below static/ -> file."""
    found: dict[str, StaticFile] = {}
    _load(files("wsi_vmamba.view").joinpath("static"), "", found)
    return found


def _load(folder: Traversable, prefix: str, found: dict[str, StaticFile]) -> None:
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        ending = "." + entry.name.rpartition(".")[2]
        if entry.is_dir():
            _load(entry, f"{name}/", found)
        elif ending in _KINDS and not entry.name.startswith("."):
            data = entry.read_bytes()
            found[name] = StaticFile(data, _KINDS[ending], hashlib.blake2b(data, digest_size=12).hexdigest())
