"""The table ``extract.csv`` beside the features: what became of every slide that was ever tried."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsi_vmamba.durable import csv_text, describe_os_error, write_atomic
from wsi_vmamba.errors import StoreError
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.table import read_table

#: The table on the disk is written at most this often, in seconds, and at the end.
_SAVE_EVERY_S = 2.0


class OutcomeTable:
    """The table ``extract.csv`` of an output folder: a row for every slide that was ever tried into it.

    Several runs may write it at once; each replaces the rows of its own slides and keeps the others.
    """

    def __init__(self, path: Path, *, kind: type[Any] = Outcome, more: Sequence[str] = ()) -> None:
        """Write nothing yet.

        Args:
            path: of the table.
            kind: dataclass of a row, whose fields are the columns; one of them is ``slide_id``.
            more: further columns, which rows have by name in their field ``more``.
        """
        self.path = path
        self._names = [*(name for name in kind.__dataclass_fields__ if name != "more"), *more]
        self._empty = dict.fromkeys(more, "")
        self._unsaved: dict[str, Any] = {}
        self._saved_at = time.monotonic()

    def add(self, outcome: Any) -> None:
        """Take in the outcome of a slide, and save now and then."""
        self._unsaved[outcome.slide_id] = outcome
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._saved_at = time.monotonic()
            # A full disk must not end the run; what could not be saved now is saved with the rest.
            with suppress(StoreError):
                self.save()

    def save(self) -> None:
        """Bring the table on the disk up to date.

        Raises:
            StoreError: it cannot be written.
        """
        names = self._names
        with _alone_in(self.path.parent):
            rows = {row["slide_id"]: row for row in self._read() if set(row) == set(names)}
            rows |= {slide_id: self._cells(outcome) for slide_id, outcome in self._unsaved.items()}
            table = ([rows[slide_id][name] for name in names] for slide_id in sorted(rows))
            write_atomic(self.path, csv_text(names, table))
        self._unsaved = {}

    def _cells(self, outcome: Any) -> dict[str, Any]:
        return {**self._empty, **asdict(outcome), **getattr(outcome, "more", {})}

    def _read(self) -> list[dict[str, str]]:
        try:
            if not self.path.exists() or not self.path.stat().st_size:
                return []
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            return [row.cells for row in read_table(self.path, expects=("slide_id",), error=StoreError).rows]
        except StoreError as error:
            raise StoreError(f"{error}; mend the table, or move it away") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; without effect where it cannot be locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot write into {folder}: {describe_os_error(error, folder=folder)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # network file systems lock no folders
            if error.errno == errno.EINTR:
                raise
        yield
    finally:
        os.close(descriptor)
