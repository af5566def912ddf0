"""Threads of the encoder, which take ranges of rows in turn, and the clock that says where their time goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

import torch

Hand = TypeVar("Hand")


class Profile:
    """CPU seconds per operator, summed over threads."""

    def __init__(self) -> None:
        self.cpu_seconds: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def measure(self, operator: str) -> Iterator[None]:
        """Add this thread's CPU time in the block to ``operator``."""
        before = time.thread_time()
        yield
        spent = time.thread_time() - before
        with self._lock:
            self.cpu_seconds[operator] = self.cpu_seconds.get(operator, 0.0) + spent


class Workers:
    """Threads that each run torch single-threaded: its own thread pool beside ours gains nothing.

    The number of torch threads of the process is set to 1 inside and put back afterwards.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._before = 1

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(
            self.count, "wsi-vmamba", initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._before)

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run all jobs, wait for all, then raise the first error if there was one."""
        if len(jobs) == 1:
            _job(jobs[0])
            return
        futures = [self._pool.submit(_job, job) for job in jobs]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error

    def share(self, jobs: Sequence[Callable[[Hand], None]], hands: Sequence[Hand]) -> None:
        """Run all jobs as `run` does, begun in order, each with one of ``hands`` that no other has meanwhile."""
        waiting = deque(jobs)

        def work(hand: Hand) -> None:
            while True:
                try:
                    job = waiting.popleft()
                except IndexError:
                    return
                job(hand)

        self.run([partial(work, hand) for hand in hands])


def _job(job: Callable[[], None]) -> None:
    with torch.inference_mode():  # a setting of the thread, not of the process
        job()
