from __future__ import annotations

import io

from rich.console import Console

from wsi_vmamba.console import SHOWN_ROWS, live_table

COLUMNS = ("epoch", "loss")


def test_in_a_log_file_each_row_is_a_line_at_once(capsys):
    with live_table("a run", COLUMNS) as add:
        add((1, "0.5"))
        assert capsys.readouterr().out == "a run\nepoch\tloss\n1\t0.5\n"
        add((2, "0.4"))
    assert capsys.readouterr().out == "2\t0.4\n"


def test_on_a_terminal_the_last_rows_stay_in_sight():
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=60, legacy_windows=False)
    with live_table("a run", COLUMNS, terminal=terminal) as add:
        for epoch in range(1, SHOWN_ROWS + 4):
            add((epoch, f"{1 / epoch:.4f}"))
            assert f"{1 / epoch:.4f}" in screen.getvalue()  # drawn while it runs, not at the end
    last = screen.getvalue().rpartition("a run")[2]
    assert "…" in last
    assert f"{1 / (SHOWN_ROWS + 3):.4f}" in last
    assert f"{1 / 3:.4f}" not in last
    assert f"{1 / 4:.4f}" in last
