"""The slides of a run in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.encode import Encoder
from wsi_vmamba.extraction.encoders import describe_encoder
from wsi_vmamba.extraction.one_slide import extract_slide
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.extraction.sources import SlideSource
from wsi_vmamba.extraction.waiting import until_unclaimed
from wsi_vmamba.progress import News


class LocalExecutor:
    """An `Executor` that is this process."""

    def __init__(self, config: ExtractConfig, encoder: Encoder) -> None:
        """Take what all slides share."""
        self._config = config
        self._encoder = encoder
        self.facts: Mapping[str, str] = describe_encoder(config, encoder)
        self.note = ""

    def extract(
        self, sources: Sequence[SlideSource], *, started_mtime: float, report: Callable[[News], None]
    ) -> Iterator[Outcome]:
        """See `Executor.extract`."""

        def try_each(waiting: Sequence[SlideSource]) -> Iterator[tuple[SlideSource, Outcome]]:
            for source in waiting:
                yield (
                    source,
                    extract_slide(
                        self._config, source, self._encoder, started_mtime=started_mtime, report=report
                    ),
                )

        return until_unclaimed(sources, try_each, report=report)
