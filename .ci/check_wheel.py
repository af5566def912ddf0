"""Fail if a Python file, a config or a manifest of the checkout is missing from the wheel, or tests got in."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Where each folder of the checkout must land in the wheel.
MAPPED = {
    "wsi_vmamba": "wsi_vmamba",
    "pipelines": "wsi_vmamba/pipelines",
    "configs": "wsi_vmamba/configs",
    "data/manifests": "wsi_vmamba/data/manifests",
}
SUFFIXES = {".py", ".yaml", ".csv", ".safetensors", ".html", ".js", ".css", ".svg", ".png", ".txt", ".typed"}


def main(wheel: str) -> int:
    """Compare the wheel's files with the checkout's; print what differs and return the exit code."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{inside}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in MAPPED.items()
        for file in (ROOT / folder).rglob("*")
        if file.suffix in SUFFIXES and "__pycache__" not in file.parts
    }
    missing = sorted(expected - packed)
    stray = sorted(
        name for name in packed if name.split("/")[0] not in {"wsi_vmamba"} and ".dist-info/" not in name
    )
    for name in missing:
        print(f"missing from the wheel: {name}")
    for name in stray:
        print(f"does not belong in the wheel: {name}")
    print(f"{len(expected)} files expected, {len(missing)} missing, {len(stray)} stray")
    return 1 if missing or stray else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
