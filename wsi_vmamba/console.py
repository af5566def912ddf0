"""What a person sees while a command runs: progress and growing tables on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from wsi_vmamba.text import printable, without_commands

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Notes on one file that are shown one by one.
_SHOWN_NOTES = 8
#: Rows of a growing table that stay in sight on a terminal.
SHOWN_ROWS = 15

#: Adds a row to a growing table.
AddRow = Callable[[Sequence[object]], None]


@dataclass
class Task:
    """Progress of one piece of work with a known number of steps."""

    label: str
    total: int
    _progress: Progress | None = None
    _task: TaskID | None = None
    _done: int = 0
    _heartbeat_s: float = 10.0
    _started: float = field(default_factory=time.monotonic)
    _printed: float = field(default_factory=time.monotonic)

    def step(self, detail: str = "", *, total: int | None = None) -> None:
        """Record one finished step; ``total`` corrects the number of steps once it is known."""
        self._done += 1
        self.total = max(total or self.total, self._done)
        if self._progress is not None and self._task is not None:
            description = f"{self.label} {detail}".strip()
            self._progress.update(self._task, advance=1, total=self.total, description=description)
            return
        now = time.monotonic()
        # A log file wants a heartbeat, not a line a region.
        if now - self._printed >= self._heartbeat_s:
            self._printed = now
            left_s = (now - self._started) / self._done * (self.total - self._done)
            say(f"{self.label} {detail}: {self._done}/{self.total}, about {left_s:.0f} s left")


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def draws_live(file: object) -> bool:
    """Whether something that is redrawn in place can be seen there: on a terminal, and not in what only looks like one.

    Colours may be wanted in a log file too (FORCE_COLOR), redrawing never: there each picture would be added to those
    before. The output of ``!command`` in a notebook is a terminal to the command, and shows every picture as a line.
    """
    isatty = getattr(file, "isatty", None)
    return (
        isatty is not None
        and isatty()
        and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}
        and "JPY_PARENT_PID" not in os.environ
    )


def say(text: str) -> None:
    """Print one line of news to standard output."""
    _console().print(without_commands(text), markup=False)


def shorten_notes(notes: Sequence[str]) -> list[str]:
    """The first few notes on one file, and how many more there are."""
    more = len(notes) - _SHOWN_NOTES
    return [*notes[:_SHOWN_NOTES], *([f"and {more} more notes like these"] if more > 0 else [])]


def say_notes(about: str, notes: Sequence[str]) -> None:
    """Print what was repaired or left out of one file, a line each."""
    for note in shorten_notes(notes):
        say(f"{about}: note: {note}")


def warn(text: str) -> None:
    """Print one line that the user should act on to standard error."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(
        f"warning: {without_commands(text)}", markup=False, style="yellow"
    )


@contextmanager
def progress(label: str, total: int) -> Iterator[Task]:
    """Show the progress of ``total`` steps while the block runs."""
    console = _console()
    if not draws_live(sys.stdout):
        yield Task(label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Task(label, total, bar, bar.add_task(label, total=total))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; outside a terminal, tab-separated lines that other programs can read."""
    console = _console()
    if not console.is_terminal:
        say(title)
        for row in (columns, *rows):
            # Not through rich, which turns tabs into blanks.
            print("\t".join(printable(str(value)) for value in row), file=sys.stdout, flush=True)
        return
    shown = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(printable(str(value)) for value in row))
    console.print(shown)


@contextmanager
def live_table(
    title: str, columns: Sequence[str], *, terminal: Console | None = None, log: bool = True
) -> Iterator[AddRow]:
    """Show a table that grows while the block runs; yields the function that adds a row.

    On a terminal the last rows are redrawn in place and stay when the block ends; elsewhere each row is a line at
    once, for `tail -f` and for other programs.

    Args:
        title: what the rows are about.
        columns: their headings.
        terminal: where to draw; None: standard output.
        log: whether to write anything where that is no terminal.
    """
    draws = terminal is not None or draws_live(sys.stdout)
    terminal = terminal or Console(highlight=False)
    if not draws and not log:
        yield lambda row: None
        return
    if not draws:
        # Plain print: rich would turn tabs into spaces.
        print(title)
        print("\t".join(columns), flush=True)
        yield lambda row: print("\t".join(map(str, row)), flush=True)
        return
    rows: list[Sequence[object]] = []
    with Live(_last_rows(title, columns, rows), console=terminal, auto_refresh=False) as live:

        def add(row: Sequence[object]) -> None:
            rows.append(row)
            live.update(_last_rows(title, columns, rows), refresh=True)

        yield add


@contextmanager
def rounds_table(
    folder: Path, report: type[DataclassInstance]
) -> Iterator[Callable[[DataclassInstance], None]]:
    """A `live_table` of a training: the numbers of its rounds, and in the last column whether it is the best so far."""
    with live_table(str(folder), [one.name.replace("_", " ") for one in fields(report)]) as add:

        def show(one: DataclassInstance) -> None:
            *numbers, best = astuple(one)
            add([*(f"{n:.4g}" for n in numbers), "*" if best else ""])

        yield show


def say_resumed(folder: Path, done: int, *, what: str) -> None:
    """Say after which round a training goes on; ``what`` a round is called."""
    say(f"resuming after {what} {done}" if done else f"nothing to resume in {folder}; beginning")


def _last_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    if len(rows) > SHOWN_ROWS:
        table.add_row(*("…" for _ in columns))
    for row in rows[-SHOWN_ROWS:]:
        table.add_row(*map(str, row))
    return table
