"""The progress of a run over slides: redrawn on a terminal and in a notebook, a line now and then in a log file.

Time drives it, not news: also a region that takes many minutes leaves nobody without a sign of life.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wsi_vmamba import console
from wsi_vmamba.progress import News, RunProgress, SlideProgress, in_words

#: A log file gets a line of a slide, and one of all, at most this often, in seconds.
LOG_EVERY_S = 30.0
#: A terminal is redrawn so often, and a notebook, which sends each picture over a network.
_DRAW_EVERY_S = 0.5
_NOTEBOOK_EVERY_S = 2.0
_LOOK_EVERY_S = 1.0
#: Slides that are shown at once; more would scroll a terminal.
_SHOWN_SLIDES = 12

Clock = Callable[[], float]


class View(Protocol):
    """Where progress is shown."""

    every_s: float

    def show(self, run: RunProgress, now_s: float) -> None:
        """Show how things are."""
        ...

    def close(self) -> None:
        """Leave nothing behind that would pretend to go on."""
        ...


class Board:
    """Takes news of slides from any thread and has them shown."""

    def __init__(self, n_slides: int, view: View, *, clock: Clock = time.monotonic) -> None:
        """Begin; ``clock`` gives seconds."""
        self._clock = clock
        self._view = view
        self._lock = threading.Lock()
        self._run = RunProgress(n_slides=n_slides, began_s=clock())

    def take(self, news: News) -> None:
        """Take in news; a note is printed at once."""
        if news.note:
            console.say(f"{news.slide_id}: {news.note}")
            return
        with self._lock:
            self._run.take(news, self._clock())

    def finish(self, slide_id: str) -> None:
        """A slide is through, however it ended."""
        with self._lock:
            self._run.finish(slide_id)

    def look(self) -> None:
        """Have it shown, if it is time to."""
        with self._lock:
            self._view.show(self._run, self._clock())


@contextmanager
def open_board(n_slides: int) -> Iterator[Board]:
    """Show the progress of a run while the block lasts."""
    view = _choose_view()
    board = Board(n_slides, view)
    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(view.every_s):
            # Where progress cannot be shown the work goes on; a result that cannot be told is the caller's matter.
            with suppress(OSError):
                board.look()

    eyes = threading.Thread(target=keep_looking, name="progress", daemon=True)
    eyes.start()
    try:
        yield board
    finally:
        ended.set()
        eyes.join()
        with suppress(OSError):
            view.close()


def _choose_view() -> View:
    handle = notebook_display()
    if handle is not None:
        return NotebookView(handle)
    return TerminalView(Console(highlight=False)) if console.draws_live(sys.stdout) else LogView()


class LogView:
    """Lines for a log file: of each slide, and of all, one every `LOG_EVERY_S`."""

    def __init__(self) -> None:
        """Print nothing yet; what is through sooner says so itself."""
        self.every_s = _LOOK_EVERY_S
        self._printed: dict[str, float] = {}
        self._all_printed_s: float | None = None

    def show(self, run: RunProgress, now_s: float) -> None:
        """Print what is due."""
        self._printed = {slide_id: at for slide_id, at in self._printed.items() if slide_id in run.running}
        for slide_id, slide in run.running.items():
            if now_s - self._printed.get(slide_id, slide.began_s) >= LOG_EVERY_S:
                self._printed[slide_id] = now_s
                console.say(f"{slide_id}: {describe_slide(slide, now_s)}")
        if run.n_slides > 1 and now_s - (self._all_printed_s or run.began_s) >= LOG_EVERY_S:
            self._all_printed_s = now_s
            console.say(describe_run(run, now_s))

    def close(self) -> None:
        """Nothing is pending."""


class TerminalView:
    """Bars at the bottom of a terminal; what is said meanwhile appears above them."""

    def __init__(self, terminal: Console) -> None:
        """Take over the bottom of the terminal."""
        self.every_s = _DRAW_EVERY_S
        self._live = Live(console=terminal, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, run: RunProgress, now_s: float) -> None:
        """Redraw."""
        self._live.update(draw(run, now_s), refresh=True)

    def close(self) -> None:
        """Take the bars away: what they were about is through, or has been said."""
        self._live.update(Text(""))
        self._live.stop()


class NotebookView:
    """One output of a notebook's cell, replaced in place."""

    def __init__(self, handle: Any) -> None:
        """Take over a display handle of IPython."""
        self.every_s = _NOTEBOOK_EVERY_S
        self._handle = handle
        self._shown = ""

    def show(self, run: RunProgress, now_s: float) -> None:
        """Replace the text if it has changed."""
        lines = [f"{slide_id}: {describe_slide(slide, now_s)}" for slide_id, slide in run.running.items()]
        self._replace("\n".join([*lines[:_SHOWN_SLIDES], describe_run(run, now_s)]))

    def close(self) -> None:
        """Leave the last state."""
        self._replace("")

    def _replace(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            self._handle.update({"text/plain": text}, raw=True)


def notebook_display() -> Any:
    """A display handle of the notebook that this process is the kernel of; None anywhere else."""
    # Only a kernel has it imported; looking for it elsewhere would cost a second.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from importlib import import_module

    return import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)


def describe_slide(slide: SlideProgress, now_s: float) -> str:
    """How far a slide is, in words."""
    latest = slide.latest
    return f"{latest.regions} of {latest.n_regions} regions, {in_words(slide.left_s(now_s))}"


def describe_run(run: RunProgress, now_s: float) -> str:
    """How far all slides are, in words."""
    return f"in all: {run.finished} of {run.n_slides} slides, {in_words(run.left_s(now_s))}"


def draw(run: RunProgress, now_s: float) -> RenderableType:
    """Bars: one for each slide that is worked on, one for all."""
    table = Table.grid(padding=(0, 1))
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=40)
    for _ in range(2):
        table.add_column(no_wrap=True)
    shown = list(run.running.items())[:_SHOWN_SLIDES]
    for slide_id, slide in shown:
        latest = slide.latest
        bar = ProgressBar(total=max(1, latest.total_px), completed=latest.done_px, width=24)
        table.add_row(Text(slide_id), bar, Text(describe_slide(slide, now_s)))
    more = len(run.running) - len(shown)
    parts: list[RenderableType] = [table]
    if more:
        parts.append(Text(f"… and {more} more"))
    if run.n_slides > 1:
        parts.append(Text(describe_run(run, now_s)))
    return Group(*parts)
