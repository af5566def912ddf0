"""A few threads that read and decode; unlike those of `concurrent.futures`, the program does not wait for them to end.

Ctrl-C ends the viewer at once, though a thread may be in the middle of a large tile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """More is waiting already than anybody can still be waiting for."""


class Pool:
    """Runs work in order; may be used from any thread."""

    def __init__(self, threads: int, *, name: str, most_waiting: int = 1024) -> None:
        """Start the threads.

        Args:
            threads: how many.
            name: of the threads, for debuggers.
            most_waiting: work beyond what is running.
        """
        self._waiting: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue(most_waiting)
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have something done.

        Raises:
            BusyError: too much is waiting.
        """
        future: Future[T] = Future()
        try:
            self._waiting.put_nowait((future, work))
        except queue.Full:
            raise BusyError from None
        return future

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed on to whoever waits for it
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, future, work  # not to be kept alive until the next one comes

    def close(self, *, wait_s: float = 0.0) -> bool:
        """Cancel what has not begun and let the threads end when they are done.

        Args:
            wait_s: how long to wait for them.

        Returns:
            Whether all have ended.
        """
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job[0].cancel()
        for _ in self._threads:
            self._waiting.put_nowait(None)
        until = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
