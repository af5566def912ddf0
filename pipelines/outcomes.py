"""What became of each slide of a run: one row each, kept beside the features and shown at the end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_vmamba.pipelines.sources import SlideSource

from wsi_vmamba import console
from wsi_vmamba.durable import csv_text, describe_os_error, write_atomic
from wsi_vmamba.errors import (
    BadTileError,
    IncompatibleStoreError,
    MaskError,
    MissingMppError,
    NoTissueError,
    SceneError,
    SlideError,
    SlideNameError,
    StoreError,
    UnreadableSlideError,
    UnsupportedSlideError,
)
from wsi_vmamba.table import read_table
from wsi_vmamba.text import printable

DONE, ALREADY_DONE, NO_TISSUE, FAILED = "done", "already done", "no tissue", "failed"
#: Not an end: another run is at the slide; ask again later.
CLAIMED = "claimed"

#: What the user can do, by the kind of error, the most special first.
_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (BadTileError, "copy the slide again; or --on-bad-tile skip to leave out the patches it touches"),
    (SceneError, "--scene N, one that the file holds; other slides in a run of their own"),
    (
        UnsupportedSlideError,
        "save it again as 8-bit RGB, with JPEG, deflate or Zstandard, or take it out of the run",
    ),
    (UnreadableSlideError, "copy the slide again from its source, or take it out of the run"),
    (SlideNameError, "rename it, or do what else the cause names, then run the same command again"),
    (MissingMppError, "--mpp-override UM, or a column mpp in a CSV of slides"),
    (NoTissueError, "look at the slide; then --set min_tissue=0 or --set segmenter=all"),
    (MaskError, "mend the mask, or leave out --mask"),
    (SlideError, "a --target-mpp that the slide can give"),
    (IncompatibleStoreError, "another --out, or --overwrite"),
    (MemoryError, "a smaller --region-px, or more memory"),
)
#: The same, where the system said what is wrong.
_REMEDIES_BY_NUMBER = {
    errno.ENOSPC: "free some space or choose another --out, then run the same command again",
    errno.EDQUOT: "free some of your quota or choose another --out, then run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then run the same command again",
    errno.EACCES: "give this user permission (chmod, chown), then run the same command again",
    errno.EPERM: "give this user permission (chmod, chown), then run the same command again",
    errno.EROFS: "choose an --out that can be written",
    errno.ENAMETOOLONG: "give the slide a shorter name, in a CSV of slides (slide_id, path)",
    errno.ENOENT: "check the path: was it moved, or is its disk not mounted?",
    errno.ESTALE: "check the file server, then run the same command again",
    errno.EIO: "check the disk, then copy the slide again from its source",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then run the same command again",
}
#: In letters; the CSV reader takes no more than 131,072 in a cell.
_LONGEST_CAUSE = 2000
#: The table on the disk is written at most this often, in seconds, and at the end.
_SAVE_EVERY_S = 2.0
#: Seconds between two looks at slides that another run is at: the first, and the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide.

    Attributes:
        slide_id: its name.
        outcome: one of the words above.
        detail: the cause, where it has no features; what was left out, where some are missing; which of several
            pictures in its file it is.
        remedy: what the user can do about it.
        regions: regions of its plan.
        patches: features stored.
        left_out: patches without features because a damaged tile touches them.
        seconds: how long it took.
        decode_s: how long decoding worked.
        wait_s: how long the encoder waited for pixels.
        stream_s: how long both of them took together, from the first region asked for to the last one encoded.
    """

    slide_id: str
    outcome: str
    detail: str = ""
    remedy: str = ""
    regions: int = 0
    patches: int = 0
    left_out: int = 0
    seconds: float = 0.0
    decode_s: float = 0.0
    wait_s: float = 0.0
    stream_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the slide has no feature file now."""
        return self.outcome not in {DONE, ALREADY_DONE}


def failure(slide_id: str, error: BaseException) -> Outcome:
    """The outcome of a slide that an error ended."""
    return Outcome(
        slide_id=slide_id,
        outcome=NO_TISSUE if isinstance(error, NoTissueError) else FAILED,
        detail=_cause(error),
        remedy=remedy_for(error),
    )


def unforeseen(slide_id: str, error: BaseException, *, kept: str) -> Outcome:
    """The outcome of a slide that an error of a kind that nobody foresaw ended.

    Args:
        slide_id: its name.
        error: what ended it.
        kept: where its traceback is.
    """
    return Outcome(
        slide_id=slide_id,
        outcome=FAILED,
        detail=f"{type(error).__name__}: {_cause(error)} ({kept})",
        remedy="look at the slide; if it is sound, report the traceback as a fault of this program",
    )


def _cause(error: BaseException) -> str:
    """One line of bearable length; a longer one, or one with odd letters, could not be read from the table again."""
    words = error.message if isinstance(error, SlideError) else str(error) or type(error).__name__
    words = printable(" ".join(words.split()))
    return words if len(words) <= _LONGEST_CAUSE else f"{words[:_LONGEST_CAUSE]}…"


def remedy_for(error: BaseException) -> str:
    """What the user can do: by what the system said, if it did, else by the kind of error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REMEDIES_BY_NUMBER:
            return _REMEDIES_BY_NUMBER[cause.errno]
        cause = cause.__cause__
    return next((words for kind, words in _REMEDIES if isinstance(error, kind)), "")


class OutcomeTable:
    """The table ``extract.csv`` of an output folder: a row for every slide that was ever tried into it.

    Several runs may write it at once; each replaces the rows of its own slides and keeps the others.
    """

    def __init__(self, path: Path) -> None:
        """Write nothing yet."""
        self.path = path
        self.outcomes: list[Outcome] = []
        self._unsaved: dict[str, Outcome] = {}
        self._saved_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Take in the outcome of a slide, and save now and then."""
        self.outcomes.append(outcome)
        self._unsaved[outcome.slide_id] = outcome
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._saved_at = time.monotonic()
            # A full disk must not end the run; what could not be saved now is saved with the rest.
            with suppress(StoreError):
                self.save()

    def save(self) -> None:
        """Bring the table on the disk up to date.

        Raises:
            StoreError: it cannot be written.
        """
        names = list(Outcome.__dataclass_fields__)
        with _alone_in(self.path.parent):
            rows = {row["slide_id"]: row for row in self._read() if set(row) == set(names)}
            rows |= {slide_id: asdict(outcome) for slide_id, outcome in self._unsaved.items()}
            table = ([rows[slide_id][name] for name in names] for slide_id in sorted(rows))
            write_atomic(self.path, csv_text(names, table))
        self._unsaved = {}

    def _read(self) -> list[dict[str, str]]:
        try:
            if not self.path.exists() or not self.path.stat().st_size:
                return []
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            return [row.cells for row in read_table(self.path, expects=("slide_id",), error=StoreError).rows]
        except StoreError as error:
            raise StoreError(f"{error}; mend the table, or move it away") from error

    def show(self, *, seconds: float) -> None:
        """Print the sum of the run and, for each slide without features, its cause and remedy."""
        failures = [outcome for outcome in self.outcomes if outcome.failed]
        already = sum(outcome.outcome == ALREADY_DONE for outcome in self.outcomes)
        console.say(
            f"{len(self.outcomes) - len(failures)} of {len(self.outcomes)} slides have features in "
            f"{self.path.parent} ({already} were there already); {seconds:.1f} s"
        )
        if shares := waiting_shares(self.outcomes):
            console.say(shares)
        gaps = [outcome for outcome in self.outcomes if outcome.left_out]
        if gaps:
            rows: Sequence[Sequence[object]] = [(gap.slide_id, gap.left_out, gap.detail) for gap in gaps]
            console.print_table("Slides with patches left out", ("slide", "patches", "cause"), rows)
        if failures:
            rows = [(each.slide_id, each.outcome, each.detail, each.remedy) for each in failures]
            console.print_table("Slides without features", ("slide", "outcome", "cause", "remedy"), rows)


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


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; without effect where it cannot be locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot write into {folder}: {describe_os_error(error, folder=folder)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # network file systems lock no folders
            if error.errno == errno.EINTR:
                raise
        yield
    finally:
        os.close(descriptor)


def until_unclaimed(
    sources: Sequence[SlideSource],
    extract: Callable[[Sequence[SlideSource]], Iterable[tuple[SlideSource, Outcome]]],
) -> Iterator[Outcome]:
    """Yield the outcome of every slide; those that other runs are at come last, when those are through or dead.

    Args:
        sources: the slides.
        extract: tries slides and gives each one's outcome, `CLAIMED` where another run is processing it.
    """
    pause_s = _FIRST_PAUSE_S
    waiting = sources
    while waiting:
        claimed = []
        for source, outcome in extract(waiting):
            if outcome.outcome != CLAIMED:
                yield outcome
                continue
            claimed.append(source)
            if pause_s == _FIRST_PAUSE_S:
                console.say(f"{source.slide_id}: {outcome.detail}; later")
        if claimed:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        waiting = claimed
