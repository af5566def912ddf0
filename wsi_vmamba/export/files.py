"""Exported files appear whole or not at all, and never in the place of others unless asked."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.export.patches import ExportPatches


@dataclass(frozen=True, kw_only=True)
class ExportFile:
    """One file to be: where, relative to the output folder, and how its bytes come about."""

    path: str
    write: Callable[[BinaryIO], None]


class Exporter(Protocol):
    """Rewrites one slide; the files are described first and written by `write_files`."""

    def __call__(self, patches: ExportPatches) -> tuple[ExportFile, ...]:
        """Return the files of this slide in the exporter's format."""


def write_files(files: Sequence[ExportFile], out: Path, *, overwrite: bool) -> list[Path]:
    """Write the files that are not there yet, or all of them with ``overwrite``; return those written.

    Files are built in memory, so that whatever fails leaves nothing behind; the largest is a slide's features. One
    that is there must be what would be written now, byte for byte: an export of older features is never taken for
    one of these.

    Raises:
        IncompatibleStoreError: a file is there and differs; nothing is written.
        StoreError: the disk is full or the folder cannot be written.
    """
    missing: list[tuple[Path, bytes]] = []
    for file in files:
        path, content = out / file.path, io.BytesIO()
        file.write(content)
        if overwrite or not path.exists():
            missing.append((path, content.getvalue()))
        elif path.read_bytes() != content.getvalue():
            raise IncompatibleStoreError(
                f"{path} is there and is not what would be written now (other features, scores, or versions of "
                "libraries); choose another --out, or replace it with --overwrite"
            )
    for path, ready in missing:
        write_atomic(path, ready)
    return [path for path, _ in missing]


def require(module: str) -> Any:
    """Import an optional library.

    Raises:
        UsageError: it is not installed; says how to get it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this format needs {error.name}, which is not installed; run `pip install 'wsi-vmamba[export]'`"
        ) from error
