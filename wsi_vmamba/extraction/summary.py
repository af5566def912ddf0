"""The outcomes of a run together: their sum, and for each slide without features the cause and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi_vmamba.extraction.outcomes import ALREADY_DONE, Outcome
from wsi_vmamba.notebook import table_html


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of text, for a terminal, a log file or a notebook."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(kw_only=True)
class Outcomes:
    """What became of the slides of a run, in the order in which they were through.

    Iterating gives an `Outcome` for each slide. Printed, and shown in a notebook, as `wsi-vmamba extract` prints it.

    Attributes:
        folder: where the feature files are.
        n_slides: slides that the run was given; more than have outcomes where it was interrupted.
        seconds: how long the run took.
        unsaved: why ``extract.csv`` in the folder could not be written; empty where it was.
    """

    folder: Path
    n_slides: int = 0
    seconds: float = 0.0
    unsaved: str = ""
    _outcomes: list[Outcome] = field(default_factory=list)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __getitem__(self, slide_id: str) -> Outcome:
        for outcome in self._outcomes:
            if outcome.slide_id == slide_id:
                return outcome
        raise KeyError(slide_id)

    def add(self, outcome: Outcome) -> None:
        """Take in the outcome of one more slide."""
        self._outcomes.append(outcome)

    @property
    def ok(self) -> bool:
        """Whether every slide has features now, and the table of outcomes says so."""
        return not self.unsaved and not self.failures and not self.n_unreached

    @property
    def n_unreached(self) -> int:
        """Slides that have no outcome, since the run was interrupted before."""
        return max(0, self.n_slides - len(self))

    @property
    def failures(self) -> list[Outcome]:
        """Slides without features."""
        return [outcome for outcome in self._outcomes if outcome.failed]

    def lines(self) -> list[str]:
        """The sum of the run in a line or two."""
        already = sum(outcome.outcome == ALREADY_DONE for outcome in self._outcomes)
        lines = [
            f"{len(self) - len(self.failures)} of {len(self) + self.n_unreached} slides have features in {self.folder} "
            f"({already} were there already); {self.seconds:.1f} s"
        ]
        if self.n_unreached:
            lines.append(f"{self.n_unreached} slides were not finished: the run was interrupted")
        return [*lines, *filter(None, [waiting_shares(self._outcomes)])]

    def tables(self) -> list[TextTable]:
        """Slides of which patches were left out, and slides without features, if there are such."""
        gaps = [(each.slide_id, each.left_out, each.detail) for each in self._outcomes if each.left_out]
        failures = [(each.slide_id, each.outcome, each.detail, each.remedy) for each in self.failures]
        tables = [
            TextTable(title="Slides with patches left out", columns=("slide", "patches", "cause"), rows=gaps),
            TextTable(
                title="Slides without features",
                columns=("slide", "outcome", "cause", "remedy"),
                rows=failures,
            ),
        ]
        return [table for table in tables if table.rows]

    def __str__(self) -> str:
        parts = list(self.lines())
        for table in self.tables():
            parts += [table.title, *("\t".join(map(str, row)) for row in (table.columns, *table.rows))]
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns = ("slide", "outcome", "regions", "patches", "left out", "seconds", "note or cause", "remedy")
        rows = [
            (o.slide_id, o.outcome, o.regions, o.patches, o.left_out, f"{o.seconds:.1f}", o.detail, o.remedy)
            for o in self._outcomes
        ]
        return table_html(columns, rows, caption=" ".join(self.lines()))


def waiting_shares(outcomes: Iterable[Outcome]) -> str:
    """Say what part of the time the encoder waited for pixels, and decoding for the encoder; empty for no time."""
    worked = [outcome for outcome in outcomes if outcome.stream_s > 0]
    if not worked:
        return ""
    total_s = sum(outcome.stream_s for outcome in worked)
    encoder = sum(outcome.wait_s for outcome in worked) / total_s
    decoding = 1 - sum(outcome.decode_s for outcome in worked) / total_s
    # The three are timed one by one, so a share may miss its bounds by a hair.
    encoder, decoding = (min(max(share, 0.0), 1.0) for share in (encoder, decoding))
    return f"the encoder waited {encoder:.0%} of the time for pixels, decoding waited {decoding:.0%} for the encoder"
