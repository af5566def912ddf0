"""Progress where it is shown: a log file, a terminal, a notebook."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
import types

import pytest
from rich.console import Console

from wsi_vmamba import board, console
from wsi_vmamba.progress import News


def news(slide_id: str, regions: int, n_regions: int = 10) -> News:
    return News(
        slide_id=slide_id,
        regions=regions,
        n_regions=n_regions,
        done_px=regions * 100,
        total_px=n_regions * 100,
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_log_file_gets_a_line_a_slide_every_thirty_seconds_and_one_of_all(capsys):
    clock = Clock()
    shown = board.Board(3, board.LogView(), clock=clock)
    lines: dict[int, list[str]] = {}
    for second in range(100):
        clock.now_s = second
        if second == 0:
            shown.take(news("a", 0))
            shown.take(news("b", 0))
        if second % 10 == 9:
            shown.take(news("a", second // 10 + 1))
        if second == 50:
            shown.take(news("b", 1))
        shown.look()
        if said := capsys.readouterr().out:
            lines[second] = said.splitlines()
    assert lines == {
        30: [
            "a: 3 of 10 regions, about 70 s left",
            # It says so too where no region is through after all that time.
            "b: 0 of 10 regions, time left not known yet",
            "in all: 0 of 3 slides, about 4 min left",
        ],
        60: [
            "a: 6 of 10 regions, about 40 s left",
            "b: 1 of 10 regions, about 9 min left",
            "in all: 0 of 3 slides, about 3 min left",
        ],
        90: [
            "a: 9 of 10 regions, about 10 s left",
            "b: 1 of 10 regions, about 14 min left",
            "in all: 0 of 3 slides, about 3 min left",
        ],
    }


def test_slides_that_are_quick_print_nothing_of_their_own(capsys):
    clock = Clock()
    shown = board.Board(1, board.LogView(), clock=clock)
    for slide in range(200):
        clock.now_s += 0.1
        shown.take(news(f"s{slide}", 5))
        shown.look()
        shown.finish(f"s{slide}")
    assert capsys.readouterr().out == ""


def test_notes_are_printed_at_once(capsys):
    shown = board.Board(1, board.LogView())
    shown.take(News(slide_id="a", note="goes on: 3 of 10 regions are already there"))
    assert capsys.readouterr().out == "a: goes on: 3 of 10 regions are already there\n"


def test_a_terminal_shows_every_slide_and_all_of_them():
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    view = board.TerminalView(terminal)
    clock = Clock()
    shown = board.Board(4, view, clock=clock)
    for slide_id in ("a", "b"):
        shown.take(news(slide_id, 0))
    clock.now_s = 60
    shown.take(news("a", 5))
    shown.finish("nobody knows it")
    shown.look()
    drawn = screen.getvalue()
    assert "5 of 10 regions, about 60 s left" in drawn
    assert "0 of 10 regions, time left not known yet" in drawn
    assert "in all: 1 of 4 slides, about" in drawn
    view.close()


def test_more_slides_than_fit_are_counted():
    screen = io.StringIO()
    run = board.RunProgress(n_slides=99, began_s=0)
    for index in range(20):
        run.take(news(f"s{index:02}", 1), 0)
    Console(file=screen, width=100).print(board.draw(run, 10))
    drawn = screen.getvalue()
    assert "s11" in drawn
    assert "s12" not in drawn
    assert "… and 8 more" in drawn


class Handle:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data["text/plain"])


def test_a_notebook_has_one_text_that_is_replaced(monkeypatch):
    handle = Handle()

    class ZMQInteractiveShell:
        pass

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell
    display = types.ModuleType("IPython.display")
    display.display = lambda *_, **__: handle
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(board, "_NOTEBOOK_EVERY_S", 0.01)
    with board.open_board(2) as shown:
        shown.take(news("a", 0))
        seen = threading.Event()
        for _ in range(500):
            if any("a: 0 of 10" in text for text in handle.shown):
                break
            seen.wait(0.01)
    assert handle.shown[0] == (
        "a: 0 of 10 regions, time left not known yet\nin all: 0 of 2 slides, time left not known yet"
    )
    assert handle.shown[-1] == ""


@pytest.mark.parametrize(
    ("changes", "draws"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"JPY_PARENT_PID": "1"}, False),  # !wsi-vmamba in a notebook
    ],
)
def test_what_is_redrawn_goes_to_real_terminals_only(monkeypatch, changes, draws):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        assert console.draws_live(terminal) == draws
    os.close(ours)


PROGRESS = """
from wsi_vmamba import console
from wsi_vmamba.console import live_table
with console.progress("slide", 3) as task:
    for _ in range(3):
        task.step()
with live_table("a run", ("epoch",)) as add:
    add((1,))
"""


def test_a_log_file_gets_no_drawings_where_colours_are_forced():
    """FORCE_COLOR is set for whole sessions and by CI systems; it is about colours."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRESS], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout == "a run\nepoch\n1\n"
