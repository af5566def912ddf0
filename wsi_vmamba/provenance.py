"""What made an output: versions, configuration, seed, device, kernels, time. Written as run.json beside it."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsi_vmamba import __version__
from wsi_vmamba.config import RunConfig, dump_config
from wsi_vmamba.durable import write_atomic

#: Packages whose version can change a result.
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "openslide-python", "openslide-bin",
    "tifffile", "imagecodecs", "simplejpeg", "zarr", "pillow", "opencv-python-headless", "timm",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of this package, Python and everything that can change a result; absent ones are left out."""
    return dict(_package_versions())


@cache
def _package_versions() -> dict[str, str]:
    # Looked up once: a slide would otherwise wait for it as long as for 20 megapixels.
    found = {"wsi-vmamba": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now_utc() -> str:
    """The current time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(value: object) -> str:
    """Sha-256 hex digest of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_run_record(folder: Path, *, command: str, config: RunConfig, facts: Mapping[str, Any]) -> None:
    """Save ``<command>.yaml`` (the resolved configuration) and ``<command>.run.json`` (provenance) in ``folder``.

    Args:
        folder: where the command's output lies.
        command: name of the command, which is also the stem of the two files.
        config: the configuration as resolved.
        facts: what only the command knows, for example the device, the scan kernel and the weights' hash.
    """
    record = {
        "command": command,
        "written": now_utc(),
        "host": socket.gethostname(),
        "argv": sys.argv[1:],
        "config": config.model_dump(mode="json"),
        "config_sha256": digest(config.model_dump(mode="json")),
        "versions": package_versions(),
        **facts,
    }
    write_atomic(folder / f"{command}.yaml", dump_config(config))
    write_atomic(folder / f"{command}.run.json", json.dumps(record, indent=2) + "\n")


def add_to_record(folder: Path, command: str, facts: Mapping[str, Any], *, of: bytes) -> None:
    """Add to the record of a command what is known at its end only, unless another run wrote its own since.

    Args:
        folder: where the record lies.
        command: name of the command.
        facts: what is added.
        of: the record as this run wrote it.
    """
    path = folder / f"{command}.run.json"
    try:
        unchanged = path.read_bytes() == of
    except OSError:  # it was removed meanwhile
        return
    if unchanged:
        write_atomic(path, json.dumps({**json.loads(of), **facts}, indent=2) + "\n")
