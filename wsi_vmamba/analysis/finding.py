"""What an analysis gives: a short table for people, tables and maps of all numbers, and a figure."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.evaluation.json_file import write_json

#: Is told what is being done, and how many steps it has in all, when each step is done.
Report = Callable[[str, int], None]


def silent(label: str, total: int) -> None:
    """Take no notice of progress."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


class Finding(Protocol):
    """What an analysis found; a frozen dataclass that holds the numbers as arrays."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the numbers should know."""

    def summary(self) -> Sequence[Sheet]:
        """The numbers that matter, for people."""

    def sheets(self) -> Mapping[str, Sheet]:
        """All numbers that are no maps, by the name of their CSV file."""

    def maps(self) -> Mapping[str, NDArray[Any]]:
        """Maps, by the name of their .npy file."""

    def to_dict(self) -> dict[str, Any]:
        """Settings, facts and figures, ready for JSON."""

    def draw(self) -> bytes:
        """The figure, as PNG."""


@dataclass(frozen=True, kw_only=True)
class FindingFiles:
    """Where a finding was written."""

    figure: Path
    numbers: Path
    tables: tuple[Path, ...]
    maps: tuple[Path, ...]


def write_finding(found: Finding, out: Path, *, name: str) -> FindingFiles:
    """Write ``<name>.png``, ``.json``, ``<name>.<table>.csv`` and ``<name>.<map>.npy`` into ``out``, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    files = FindingFiles(
        figure=out / f"{name}.png",
        numbers=out / f"{name}.json",
        tables=tuple(out / f"{name}.{key}.csv" for key in found.sheets()),
        maps=tuple(out / f"{name}.{key}.npy" for key in found.maps()),
    )
    write_atomic(files.figure, found.draw())
    write_json(files.numbers, found.to_dict())
    for path, sheet in zip(files.tables, found.sheets().values(), strict=True):
        write_atomic(path, csv_text(sheet.columns, sheet.rows))
    for path, values in zip(files.maps, found.maps().values(), strict=True):
        write_atomic(path, _npy(values))
    return files


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
