"""Recipe: slides to feature files, here or on a cluster; a failed slide is named and the others go on."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.extraction.kept import describe_kept
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.extraction.run import ExtractionRun, choose_sources, open_run
from wsi_vmamba.extraction.summary import Outcomes


def run(config: ExtractConfig) -> bool:
    """Extract every slide; return whether all have features afterwards."""
    sources = choose_sources(config)
    try:
        with open_run(config, sources) as extraction:
            _say_what(extraction)
            try:
                for outcome in extraction.extract():
                    _say_outcome(outcome)
            finally:
                # Also after Ctrl-C: what was learned so far is shown.
                _say_sum(extraction.outcomes)
    finally:
        # Only now the workers are gone, and what they were processing is free to be looked at.
        for line in describe_kept(Path(config.out), [source.slide_id for source in sources]):
            console.say(line)
    return extraction.outcomes.ok


def _say_what(extraction: ExtractionRun) -> None:
    facts = extraction.executor.facts
    console.say(
        f"{len(extraction.sources)} slide(s); {facts['backbone']} on {facts['device']} in {facts['precision']}"
        f"{extraction.executor.note}: {facts['weights']}"
    )


def _say_outcome(outcome: Outcome) -> None:
    left_out = f", {outcome.left_out} patches left out" if outcome.left_out else ""
    counted = f"{outcome.regions} region(s), {outcome.patches} patches{left_out}, {outcome.seconds:.1f} s"
    console.say(f"{outcome.slide_id}: {outcome.outcome} ({outcome.detail if outcome.failed else counted})")
    if outcome.detail and not outcome.failed:
        console.say(f"{outcome.slide_id}: note: {outcome.detail}")


def _say_sum(outcomes: Outcomes) -> None:
    if outcomes.unsaved:
        console.warn(outcomes.unsaved)
    for line in outcomes.lines():
        console.say(line)
    for table in outcomes.tables():
        console.print_table(table.title, table.columns, table.rows)
