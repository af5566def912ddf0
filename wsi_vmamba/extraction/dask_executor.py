"""Slides on the workers of a Dask cluster: its own on this machine, or one that runs elsewhere.

Dask gives slides to workers and gives those of a lost worker to others; nothing of that is ours. A worker has one slide
at a time and uses as many cores for it as Dask was told it has. Claims keep a slide from being made twice where Dask
takes a worker for dead that is only out of reach.
"""

from __future__ import annotations

import logging
import multiprocessing
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.comm import CommClosedError

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import ClusterError
from wsi_vmamba.extraction.dask_worker import LeaveInterrupts, describe_worker, extract_in_worker
from wsi_vmamba.extraction.outcomes import FAILED, Outcome, unforeseen
from wsi_vmamba.extraction.sources import SlideSource
from wsi_vmamba.extraction.tissue_files import FOLDER
from wsi_vmamba.extraction.tracebacks import keep_traceback
from wsi_vmamba.extraction.waiting import until_unclaimed
from wsi_vmamba.inference.memory import available_bytes
from wsi_vmamba.progress import News
from wsi_vmamba.provenance import package_versions
from wsi_vmamba.slide.location import absolute
from wsi_vmamba.slide.workers import usable_cores
from wsi_vmamba.store import end_dead_claims, remove_stale_partials

_CONNECT_S = 20
#: Two queues between Dask and a worker's process, of three semaphores each.
_SEMAPHORES_PER_WORKER = 6
#: Seconds between two looks for workers that came or went, while no slide is finished.
_LOOK_S = 5.0


class DaskExecutor:
    """An `Executor` of workers that have agreed on what they make; opened by `open_dask_executor`."""

    def __init__(self, client: Client, config: ExtractConfig, *, facts: Mapping[str, str], note: str) -> None:
        """Take the connection to their scheduler, and the configuration as workers get it."""
        self._client = client
        self._config = config
        self.facts = facts
        self.note = note

    def extract(
        self, sources: Sequence[SlideSource], *, started_mtime: float, report: Callable[[News], None]
    ) -> Iterator[Outcome]:
        """See `Executor.extract`.

        Raises:
            ClusterError: the scheduler is gone, or a worker would make other features.
        """
        topic = f"wsi-vmamba-{secrets.token_hex(8)}"
        task = partial(
            extract_in_worker,
            config=self._config,
            started_mtime=started_mtime,
            expected={**self.facts, **package_versions()},
            topic=topic,
        )
        with _news_of(self._client, topic, report):
            yield from until_unclaimed(
                sources, lambda waiting: self._extract_once(task, waiting), report=report
            )

    def _extract_once(
        self, task: Callable[[SlideSource], Outcome], sources: Sequence[SlideSource]
    ) -> Iterator[tuple[SlideSource, Outcome]]:
        """Give out one slide per worker; whoever is through gets the next."""
        # Nothing waits at a worker: Dask counts a lost worker's waiting slides as suspects, and moves them late.
        waiting = deque(sources)
        given: dict[Future, SlideSource] = {}
        known: set[str] = set()
        finished: SimpleQueue[Future] = SimpleQueue()

        def look_around() -> int:
            """Say which workers were lost since the last look, and count those that are there."""
            workers = set(self._client.nthreads())
            for lost in sorted(known - workers):
                console.warn(f"worker {lost} is gone; others take over what it had")
            known.clear()
            known.update(workers)
            return len(workers)

        def give_out() -> None:
            n_workers = look_around()
            while waiting and len(given) < max(1, n_workers):
                source = waiting.popleft()
                future = self._client.submit(task, replace(source, path=absolute(source.path)), pure=False)
                given[future] = source
                future.add_done_callback(finished.put)

        try:
            while waiting or given:
                give_out()
                with suppress(Empty):
                    future = finished.get(timeout=_LOOK_S)
                    source = given.pop(future)
                    yield source, _outcome_of(future, source, out=self._config.out)
            look_around()  # a worker may have been lost with the last slides
        except (CommClosedError, CancelledError) as error:
            raise ClusterError(
                "the connection to the Dask scheduler was lost; what is finished is kept, run the same command again "
                "to go on"
            ) from error
        finally:
            with suppress(OSError, CancelledError):
                self._client.cancel(list(given))


@contextmanager
def _news_of(client: Client, topic: str, take: Callable[[News], None]) -> Iterator[None]:
    """Have workers' news of their progress arrive while the block lasts."""
    client.subscribe_topic(topic, lambda event: take(News(**event[1]["news"])))
    try:
        yield
    finally:
        # Where the scheduler is gone there is nobody to tell.
        with suppress(OSError, RuntimeError):
            client.unsubscribe_topic(topic)


@contextmanager
def open_dask_executor(config: ExtractConfig) -> Iterator[DaskExecutor]:
    """Start workers, or reach those of a running scheduler, and have one say what it makes.

    Raises:
        ClusterError: there is no scheduler at that address.
    """
    # What it has to say of lost workers and connections, we say ourselves, in a line instead of a traceback.
    for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _local_scheduler(config) if config.workers else _running_scheduler(config) as address:
        try:
            client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {address} ({error}); is it running, and is the address its own "
                "(tcp://host:8786)?"
            ) from error
        with client:
            if config.workers:
                client.register_plugin(LeaveInterrupts())
            yield _agree(client, config)


@contextmanager
def _running_scheduler(config: ExtractConfig) -> Iterator[str]:
    assert config.scheduler is not None
    yield config.scheduler


@contextmanager
def _local_scheduler(config: ExtractConfig) -> Iterator[str]:
    """Start worker processes that share the cores of this one; afterwards nothing of theirs is left."""
    assert config.workers is not None
    require_semaphores(config.workers)
    try:
        with _start_workers(config.workers) as cluster:
            yield cluster.scheduler_address
    finally:
        # Also after an interrupt: workers that were ended in the middle of a slide gave nothing free.
        out = Path(config.out)
        if out.is_dir():
            end_dead_claims(out)
            remove_stale_partials(out)
            remove_stale_partials(out / FOLDER)


def require_semaphores(n_workers: int) -> None:
    """Refuse to start processes that cannot be spoken to; Dask would end in three tracebacks.

    Raises:
        ClusterError: the system has no room for the semaphores of so many.
    """
    processes = multiprocessing.get_context("spawn")
    try:
        # All at once; they are gone with the list.
        [processes.Lock() for _ in range(_SEMAPHORES_PER_WORKER * n_workers)]
    except OSError as error:
        raise ClusterError(
            f"no room in /dev/shm for the semaphores of {n_workers} workers ({error.strerror}), 4 kB for each of "
            f"{_SEMAPHORES_PER_WORKER * n_workers}; give the container more (docker run --shm-size=1g), mount it where "
            "there is none, remove what fills it, or leave out --workers"
        ) from error


def _start_workers(n_workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=max(1, usable_cores() // n_workers),
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,  # what does not fit is refused before it is allocated; Dask would kill the worker
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            f"{n_workers} workers, which talk over 127.0.0.1, could not be started ({_first_cause(error)}); mend that, "
            "take fewer --workers, or leave it out"
        ) from error


def _first_cause(error: BaseException) -> str:
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return str(error) or type(error).__name__


def _agree(client: Client, config: ExtractConfig) -> DaskExecutor:
    """Let the first worker resolve what is left open, so that all workers do the same."""
    if not client.nthreads():
        console.say("waiting for the first worker of the cluster")
    client.wait_for_workers(1)
    everywhere = _absolute_paths(config)
    try:
        facts = client.submit(describe_worker, everywhere, pure=False).result()
    except KilledWorker as error:
        raise ClusterError(f"workers die while they load the model ({error})") from error
    changes: dict[str, Any] = {"device": facts["device"], "precision": facts["precision"]}
    if config.workers and facts["device"] == "cpu" and config.memory_limit_gb is None:
        # Each would take for its own what is free for all.
        changes["memory_limit_gb"] = available_bytes() / 1e9 / config.workers
    n_workers = len(client.nthreads())
    note = f" on {n_workers} worker(s)" + (f" of {config.scheduler}" if config.scheduler else "")
    return DaskExecutor(client, everywhere.model_copy(update=changes), facts=facts, note=note)


def _absolute_paths(config: ExtractConfig) -> ExtractConfig:
    """Workers stand in other folders."""
    changes = {"out": str(Path(config.out).absolute())}
    if config.scratch is not None:
        changes["scratch"] = str(Path(config.scratch).absolute())
    if config.mask is not None:
        changes["mask"] = str(Path(config.mask).absolute())
    if config.weights not in ("auto", "random"):
        changes["weights"] = str(Path(config.weights).absolute())
    return config.model_copy(update=changes)


def _outcome_of(future: Future, source: SlideSource, *, out: str) -> Outcome:
    try:
        outcome: Outcome = future.result()
    except KilledWorker as error:
        return Outcome(
            slide_id=source.slide_id,
            outcome=FAILED,
            detail=f"{error.allowed_failures + 1} workers were lost while they were processing it",
            remedy="read the log of the workers; most often: more memory for each, or a smaller --region-px",
        )
    except (ClusterError, CommClosedError, CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 -- on its way to the worker or back; the others go on
        return unforeseen(source.slide_id, error, kept=keep_traceback(Path(out), source.slide_id, error))
    return outcome
