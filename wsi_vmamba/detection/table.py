"""The table of what was found: a row for each slide of the folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import StoreError

NAME = "detections.csv"


class CountTable:
    """How many objects of each class every slide has, in a file that is written anew with each slide."""

    def __init__(self, folder: Path, *, classes: Sequence[str]) -> None:
        """Empty; nothing is read."""
        self._path = folder / NAME
        self._header = ("slide_id", "windows", "objects", *classes)
        self._rows: dict[str, tuple[object, ...]] = {}

    def __contains__(self, slide_id: str) -> bool:
        return slide_id in self._rows

    def read(self) -> None:
        """Take over the rows that the file has, if there is one.

        Raises:
            StoreError: it cannot be read, or was changed.
        """
        try:
            header, *lines = csv.reader(io.StringIO(self._path.read_text(encoding="utf-8"), newline=""))
        except FileNotFoundError:
            return
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(f"{self._path} cannot be read ({error}); {self._remedy}") from error
        if tuple(header) != self._header or any(len(line) != len(header) for line in lines):
            raise StoreError(
                f"{self._path} was changed: expected the columns {', '.join(self._header)} and as many cells in every "
                f"line; {self._remedy}"
            )
        self._rows = {line[0]: tuple(line) for line in lines}

    def add(self, slide_id: str, *, windows: int, counts: Sequence[int]) -> None:
        """Write the row of a slide.

        Raises:
            StoreError: the file cannot be written.
        """
        self._rows[slide_id] = (slide_id, windows, sum(counts), *counts)
        write_atomic(self._path, csv_text(self._header, self._rows.values()))

    @property
    def _remedy(self) -> str:
        return f"choose another --out, or remove {NAME} and find the objects again with --overwrite"
