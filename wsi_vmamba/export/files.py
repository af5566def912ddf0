"""Exported files appear whole or not at all, and never in the place of others unless asked."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import UsageError
from wsi_vmamba.export.cells import ExportCells


@dataclass(frozen=True, kw_only=True)
class ExportFile:
    """One file to be: where, relative to the output folder, and how its bytes come about."""

    path: str
    write: Callable[[BinaryIO], None]


class Exporter(Protocol):
    """Rewrites one slide; the files are described first and written by `write_files`."""

    def __call__(self, cells: ExportCells) -> tuple[ExportFile, ...]:
        """Return the files of this slide in the exporter's format."""


def write_files(files: Sequence[ExportFile], out: Path, *, overwrite: bool) -> list[Path]:
    """Write the files that are not there yet, or all of them with ``overwrite``; return those written.

    A file is built in memory, so that whatever fails leaves nothing behind; the largest is a slide's features.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    written = []
    for file in files:
        path = out / file.path
        if path.exists() and not overwrite:
            continue
        content = io.BytesIO()
        file.write(content)
        write_atomic(path, content.getvalue())
        written.append(path)
    return written


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
