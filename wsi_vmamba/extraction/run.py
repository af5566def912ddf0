"""One run over slides: the recipe's and the notebook's, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wsi_vmamba.board import open_board
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.cost import COST, Stopwatch
from wsi_vmamba.durable import cannot_write_into
from wsi_vmamba.errors import StoreError
from wsi_vmamba.extraction.executor import Executor, open_executor
from wsi_vmamba.extraction.outcome_table import OutcomeTable
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.extraction.sources import SlideSource, find_sources, refuse_other_spellings, take_shard
from wsi_vmamba.extraction.summary import Outcomes
from wsi_vmamba.extraction.tissue_files import FOLDER
from wsi_vmamba.masks import check_masks
from wsi_vmamba.provenance import add_to_record, write_run_record
from wsi_vmamba.store import end_dead_claims, remove_stale_partials


@dataclass(frozen=True, kw_only=True)
class ExtractionRun:
    """Slides, and who will work on them; opened by `open_run`.

    Attributes:
        config: of the run.
        sources: its slides.
        executor: works on them.
        outcomes: what became of them so far.
    """

    config: ExtractConfig
    sources: Sequence[SlideSource]
    executor: Executor
    outcomes: Outcomes
    _started_s: float = field(default_factory=time.perf_counter)
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def extract(self) -> Iterator[Outcome]:
        """Yield the outcome of each slide as it comes, showing the progress; also after Ctrl-C the table is saved.

        Raises:
            StoreError: the output folder cannot be written.
        """
        started_mtime = begin_run(self.config, self.executor.facts)
        record = (Path(self.config.out) / "extract.run.json").read_bytes()
        table = OutcomeTable(Path(self.config.out) / "extract.csv")
        try:
            with open_board(len(self.sources)) as board:
                for outcome in self.executor.extract(
                    self.sources, started_mtime=started_mtime, report=board.take
                ):
                    board.finish(outcome.slide_id)
                    table.add(outcome)
                    self.outcomes.add(outcome)
                    yield outcome
        finally:
            self.outcomes.seconds = time.perf_counter() - self._started_s
            here = not (self.config.workers or self.config.scheduler)
            cost = self._watch.cost(device=self.executor.facts["device"], in_this_process=here)
            try:
                table.save()
                add_to_record(Path(self.config.out), "extract", {COST: cost}, of=record)
            except StoreError as error:
                self.outcomes.unsaved = str(error)


def choose_sources(config: ExtractConfig) -> list[SlideSource]:
    """The slides that a configuration asks for, its shard of them.

    Raises:
        UsageError: there are none, their names collide, or the masks cannot serve them.
    """
    sources = find_sources(config.slides, ids_from_path=config.ids_from_path)
    check_sources(config, sources)
    return take_shard(sources, config.shard)


def check_sources(config: ExtractConfig, sources: Sequence[SlideSource]) -> None:
    """Refuse slides that the masks cannot serve, or whose features are there under almost their name.

    Raises:
        UsageError: naming what is wrong.
    """
    if config.mask is not None:
        check_masks(Path(config.mask), n_slides=len(sources))
    refuse_other_spellings(sources, Path(config.out))


@contextmanager
def open_run(config: ExtractConfig, sources: Sequence[SlideSource]) -> Iterator[ExtractionRun]:
    """Prepare a run over slides: build the encoder, or reach the workers; they are gone when the block ends."""
    started_s = time.perf_counter()
    with open_executor(config) as executor:
        yield ExtractionRun(
            config=config,
            sources=sources,
            executor=executor,
            outcomes=Outcomes(folder=Path(config.out), n_slides=len(sources)),
            _started_s=started_s,
        )


def begin_run(config: ExtractConfig, facts: Mapping[str, str]) -> float:
    """Clear what dead runs left in the output folder, and record what this one is.

    Returns:
        The time of the start, by the clock of the output folder's file system.

    Raises:
        StoreError: the folder cannot be written.
    """
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        end_dead_claims(out)
        remove_stale_partials(out)
        remove_stale_partials(out / FOLDER)
        write_run_record(out, command="extract", config=config, facts=facts)
        return (out / "extract.run.json").stat().st_mtime
    except OSError as error:
        raise StoreError(cannot_write_into(out, error, option="--out")) from error
