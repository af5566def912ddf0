"""One small pool of threads for decoding, shared by all open slides."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")

_MAX_THREADS = 16
_limit = _MAX_THREADS


def run_all(task: Callable[[T], None], items: Sequence[T]) -> None:
    """Call ``task`` on every item, in several threads; the first error stops the rest and is raised.

    The caller works too, and never waits for a helper that has not begun, so callers that keep the pool busy
    cannot block each other.
    """
    if len(items) < 2:
        for item in items:
            task(item)
        return
    numbers = itertools.count()  # next() on it is atomic, which makes it the queue
    failed = False

    def work() -> None:
        nonlocal failed
        while not failed and (number := next(numbers)) < len(items):
            try:
                task(items[number])
            except BaseException:
                failed = True
                raise

    helpers = [_pool().submit(work) for _ in range(min(_threads(), len(items)) - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            helper.cancel()
        errors = [helper.exception() for helper in helpers if not helper.cancelled()]
    for error in errors:
        if error is not None:
            raise error


def limit_threads(count: int) -> None:
    """Decode in at most ``count`` threads from now on: for processes that share a machine."""
    global _limit
    if count != _limit:
        _limit = count
        _pool.cache_clear()


def usable_cores() -> int:
    """Cores this process may run on; all of the machine's where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> int:
    return min(_MAX_THREADS, _limit, usable_cores())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="tiles")


# A forked child has the pool object but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
