"""Who works on the slides of a run: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import ClusterError
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.extraction.sources import SlideSource
from wsi_vmamba.progress import News


class Executor(Protocol):
    """Works on slides; opened by `open_executor`."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What makes the features what they are, see `describe_encoder`."""
        ...

    @property
    def note(self) -> str:
        """Where the work is done, for people; empty for this process."""
        ...

    def extract(
        self, sources: Sequence[SlideSource], *, started_mtime: float, report: Callable[[News], None]
    ) -> Iterator[Outcome]:
        """Yield the outcome of each slide as it comes; slides that other runs are processing come last.

        Args:
            sources: the slides.
            started_mtime: with ``overwrite``, feature files made after this time are kept: they are new.
            report: takes news of the progress, from any thread.
        """
        ...


@contextmanager
def open_executor(config: ExtractConfig) -> Iterator[Executor]:
    """This process, or the workers that the configuration asks for.

    Raises:
        ClusterError: Dask cannot be loaded, or there is no scheduler at that address.
    """
    if not config.workers and not config.scheduler:
        # Loads torch, which whoever is to be told of a wrong path need not wait for.
        from wsi_vmamba.extraction.encoders import load_encoder
        from wsi_vmamba.extraction.local_executor import LocalExecutor

        yield LocalExecutor(config, load_encoder(config))
        return
    # Importing Dask takes half a second, which those who do not use it need not wait.
    try:
        from wsi_vmamba.extraction.dask_executor import open_dask_executor
    except ValueError as error:  # what Dask says of its configuration files, which it reads when imported
        cause = " ".join(str(error).split())
        raise ClusterError(
            f"Dask cannot be loaded: {cause}; mend or remove that file, or leave out --workers"
        ) from error

    with open_dask_executor(config) as executor:
        yield executor
