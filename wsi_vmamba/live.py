"""A table that grows while a command runs: live on a terminal, tab-separated lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from wsi_vmamba.console import draws_live

#: Rows that stay in sight on a terminal.
SHOWN_ROWS = 15

AddRow = Callable[[Sequence[object]], None]


@contextmanager
def live_table(
    title: str, columns: Sequence[str], *, terminal: Console | None = None, log: bool = True
) -> Iterator[AddRow]:
    """Yield a function that adds a row.

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
    with Live(_draw(title, columns, rows), console=terminal, auto_refresh=False) as live:

        def add(row: Sequence[object]) -> None:
            rows.append(row)
            live.update(_draw(title, columns, rows), refresh=True)

        yield add


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    if len(rows) > SHOWN_ROWS:
        table.add_row(*("…" for _ in columns))
    for row in rows[-SHOWN_ROWS:]:
        table.add_row(*map(str, row))
    return table
