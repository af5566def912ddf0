"""What became of a slide, why, and what the user can do about it."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from wsi_vmamba.errors import (
    BadTileError,
    IncompatibleStoreError,
    MaskError,
    MissingMppError,
    NoTissueError,
    SceneError,
    SlideError,
    SlideNameError,
    UnreadableSlideError,
    UnsupportedSlideError,
)
from wsi_vmamba.slide.location import is_url
from wsi_vmamba.text import printable

DONE, ALREADY_DONE, NO_TISSUE, FAILED = "done", "already done", "no tissue", "failed"
#: Not an end: another run is processing the slide; ask again later.
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
_REMEDY_OF_URLS = (
    "check the address, the network and your access to it, then run the same command again; or copy the slide to a "
    "local disk"
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
    if isinstance(error, UnreadableSlideError) and is_url(error.slide):
        return _REMEDY_OF_URLS
    return next((words for kind, words in _REMEDIES if isinstance(error, kind)), "")
