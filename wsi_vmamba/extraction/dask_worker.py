"""The worker's side of a cluster: one slide at a time, and only if the features are those that the run is about."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from distributed import WorkerPlugin, get_worker

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder
from wsi_vmamba.errors import ClusterError
from wsi_vmamba.extraction.encoders import describe_encoder, load_encoder
from wsi_vmamba.extraction.one_slide import extract_slide
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.extraction.sources import SlideSource
from wsi_vmamba.progress import News
from wsi_vmamba.provenance import package_versions
from wsi_vmamba.slide.workers import limit_threads
from wsi_vmamba.streams import guard_streams

#: An encoder is no more than one region's memory; a second slide in the same process would need it twice.
_ONE_AT_A_TIME = threading.Lock()
#: Seconds between two messages of a worker about its progress, at least.
_NEWS_EVERY_S = 0.5
#: Facts that may differ between workers without a difference in the features.
_HARMLESS = frozenset({"scan_kernel_why"})


class _EncoderHolder:
    """The encoder that this worker process holds, for the configuration that was last asked for."""

    def __init__(self) -> None:
        self._config: ExtractConfig | None = None
        self._encoder: Encoder | None = None

    def encoder_for(self, config: ExtractConfig) -> Encoder:
        """The encoder of a configuration; the one before is let go first."""
        if self._encoder is None or self._config != config:
            self._encoder = None
            self._encoder, self._config = load_encoder(config), config
        return self._encoder


_HELD = _EncoderHolder()


class LeaveInterrupts(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """A worker that leaves Ctrl-C to the process that started it; a terminal sends it to both."""

    def setup(self, worker: object) -> None:
        """Begin, in the main thread of a worker's process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def describe_worker(config: ExtractConfig) -> dict[str, str]:
    """See `describe_encoder`; here it is about the encoder of a worker."""
    with _ONE_AT_A_TIME:
        _settle()
        return describe_encoder(config, _HELD.encoder_for(config))


def extract_in_worker(
    source: SlideSource,
    *,
    config: ExtractConfig,
    started_mtime: float,
    expected: Mapping[str, str],
    topic: str,
) -> Outcome:
    """Extract one slide.

    Args:
        source: the slide, with an absolute path.
        config: of the run, with absolute paths, and with device and precision as resolved.
        started_mtime: see `begin_run`.
        expected: what `describe_encoder` and `package_versions` must say here.
        topic: under which news of the progress is sent.

    Raises:
        ClusterError: this worker would make other features than the others, or lacks the output folder.
    """
    with _ONE_AT_A_TIME:
        _settle()
        encoder = _HELD.encoder_for(config)
        _require_same(config, {**describe_encoder(config, encoder), **package_versions()}, expected)
        return extract_slide(config, source, encoder, started_mtime=started_mtime, report=_Reporter(topic))


class _Reporter:
    """Sends news to the run, not more often than somebody could read them."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._worker = get_worker()
        self._sent_s = -math.inf

    def __call__(self, news: News) -> None:
        now_s = time.monotonic()
        is_last = news.regions == news.n_regions  # of the slide; a note is always sent
        if now_s - self._sent_s >= _NEWS_EVERY_S or is_last:
            self._sent_s = now_s
            self._worker.log_event(self._topic, {"news": asdict(news)})  # Dask adds its own


def _settle() -> None:
    """Use as many cores as Dask was told that this worker has; torch counts them for each thread anew."""
    threads = get_worker().state.nthreads
    torch.set_num_threads(threads)
    limit_threads(threads)
    guard_streams()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # as the command line does


def _require_same(config: ExtractConfig, here: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name in sorted({*expected, *here} - _HARMLESS):
        if here.get(name) != expected.get(name):
            raise ClusterError(
                f"the worker on {socket.gethostname()} has {name} {here.get(name)}, this run expects "
                f"{expected.get(name)}: its features would not be the same. Give all workers and this machine one "
                "environment, or state --device and --precision"
            )
    if not Path(config.out, "extract.run.json").is_file():
        raise ClusterError(
            f"the worker on {socket.gethostname()} does not see {config.out}; --out and the slides must lie on "
            "a file system that all workers have under the same path"
        )
