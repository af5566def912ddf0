"""What made an output: versions, configuration, seed, device, kernels, time. Written as run.json beside it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsi_vmamba import __version__
from wsi_vmamba.config import RunConfig, dump_config

#: Packages whose version can change a result.
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "openslide-python", "openslide-bin",
    "tifffile", "imagecodecs", "simplejpeg", "zarr", "pillow", "opencv-python-headless",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of this package, Python and everything that can change a result; absent ones are left out."""
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


def partial_name(final: Path) -> str:
    """Temporary name, in the same folder, of what this process is making under the name of ``final``.

    It says whose it is, so that a later run can remove what a dead process left.
    """
    return f".{final.name}{partial_mark()}{os.getpid()}"


def partial_mark() -> str:
    """What stands between the final name and the pid in the temporary names of this host."""
    return f".partial-{socket.gethostname().replace('/', '_') or 'localhost'}-"


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{partial_name(path)}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    write_text_atomic(folder / f"{command}.yaml", dump_config(config))
    write_text_atomic(folder / f"{command}.run.json", json.dumps(record, indent=2) + "\n")
