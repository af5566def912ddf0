"""How whoever asked for an evaluation follows it: the caller brings what is shown, this room only counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Steps(Protocol):
    """Progress of one piece of work with a known number of steps."""

    def step(self, detail: str = "") -> None:
        """Take note of one finished step."""


#: ``show(label, total)`` opens the progress of a piece of work; `wsi_vmamba.console.progress` is one.
ShowProgress = Callable[[str, int], AbstractContextManager[Steps]]


class _Nobody:
    def step(self, detail: str = "") -> None:
        del detail


@contextmanager
def unseen(label: str, total: int) -> Iterator[Steps]:
    """Show nothing."""
    del label, total
    yield _Nobody()
