"""Every error this package raises on purpose: one base class, each also the builtin a caller would expect."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any

from wsi_vmamba.text import name_problem, printable


class WsiVmambaError(Exception):
    """Base of all errors of this package; its message says what was expected, what came and what to do."""


class UsageError(WsiVmambaError, ValueError):
    """The call itself is wrong: a bad option, name or configuration. The command line exits with 2."""


class ConfigError(UsageError):
    """A configuration file or an override does not describe a valid run."""


class UnknownNameError(UsageError, LookupError):
    """A name that is not in a table of choices."""

    def __init__(self, kind: str, name: object, choices: Iterable[str]) -> None:
        """Name the kind of thing, what was asked for, and every valid choice."""
        listed = sorted(choices)
        near = get_close_matches(str(name), listed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        super().__init__(f"unknown {kind} {name!r}{hint}; choose from {', '.join(listed)}")


class SlideError(WsiVmambaError):
    """One slide cannot be processed; a run over many slides records it and goes on."""

    def __init__(self, slide: object, message: str) -> None:
        """Prefix the message with the slide it is about."""
        super().__init__(f"{slide}: {message}")
        self.slide = str(slide)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by (slide, message), so that the error survives a trip through a worker process."""
        return type(self), (self.slide, self.message)


class UnreadableSlideError(SlideError, OSError):
    """The file is missing, truncated, damaged or of no known format."""


class SceneError(UnreadableSlideError, LookupError):
    """The file holds several pictures, and the one asked for is not there or nothing tells which is the slide."""


class UnsupportedSlideError(UnreadableSlideError):
    """The file seems sound, but is of a kind that is not read; another copy of it will not help."""


class BadTileError(UnreadableSlideError):
    """One tile inside an otherwise readable slide cannot be decoded; the message names level and tile."""

    def __init__(
        self, slide: object, message: str, *, box_px: tuple[int, int, int, int] | None = None
    ) -> None:
        """Name slide, level and tile; ``box_px`` is where the tile lies: x, y, width, height on its level."""
        super().__init__(slide, message)
        self.box_px = box_px

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the place of the tile."""
        return partial(type(self), box_px=self.box_px), (self.slide, self.message)


class SlideNameError(SlideError, ValueError):
    """The name or path of the slide cannot be that of its feature file, or cannot be written down."""


class MissingMppError(SlideError, ValueError):
    """The slide records no usable micrometres per pixel and none was given."""


class NoTissueError(SlideError, ValueError):
    """The tissue mask of the slide is empty."""


class MaskError(SlideError, ValueError):
    """The tissue mask given for a slide is missing, cannot be read or does not fit."""


class PictureError(WsiVmambaError, ValueError):
    """A picture that is to be a mask cannot be read, or does not say clearly which of its pixels are marked."""


class AnnotationError(WsiVmambaError, ValueError):
    """An annotation file cannot be read or describes no valid polygon."""


class StoreError(WsiVmambaError, OSError):
    """A feature file is missing, incomplete or damaged."""


class IncompatibleStoreError(StoreError, ValueError):
    """A feature file was made with other settings than those asked for; mixing is refused."""


class ClaimedError(StoreError):
    """Another run, which is alive, is making the same feature file; wait for it or go on with other slides."""

    def __init__(self, path: object, owner: str) -> None:
        """Name the feature file and who is processing it."""
        super().__init__(f"{path}: {owner} is processing it; it is taken over if that process dies")
        self.path = str(path)
        self.owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by (path, owner)."""
        return type(self), (self.path, self.owner)


class ClusterError(WsiVmambaError, ConnectionError):
    """The workers of a cluster cannot be reached, or would not make the features that this run is about."""


class WeightsError(WsiVmambaError, ValueError):
    """Model weights cannot be loaded: wrong keys, wrong shapes, or a file that needs a blind unpickle."""


class DatasetError(WsiVmambaError, ValueError):
    """A data set's table is wrong: unknown label, leaked patient, duplicate slide."""


class MissingDataError(DatasetError, FileNotFoundError):
    """Slides or features that a data set names are not on this machine."""


class DownloadError(WsiVmambaError, OSError):
    """A file of a public data set could not be fetched, or arrived damaged."""


class FolderGoneError(WsiVmambaError, FileNotFoundError):
    """The current folder of the process is not there any more."""


class DiskSpaceError(WsiVmambaError, OSError):
    """What is asked for does not fit on the disk; refused before it was begun."""


class MemoryLimitError(WsiVmambaError, MemoryError):
    """A request was refused before allocation because it cannot fit."""


class TrainingError(WsiVmambaError, RuntimeError):
    """Training stopped: not-a-number in loss or gradient, or a checkpoint that does not match."""


class MetricError(WsiVmambaError, ValueError):
    """A metric is not defined for the given scores and labels."""


#: What the system says about files, disks and processes; anything else that is an OSError may be a mistake of ours.
_ABOUT_THE_MACHINE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOSPC,
        errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ELOOP,
        errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETXTBSY,
    }
)  # fmt: skip


def words_of_system(error: OSError | UnicodeEncodeError) -> str | None:
    """Say in one line what the system refused and for which file; None where the error is not of that kind."""
    if isinstance(error, UnicodeEncodeError):
        return name_problem(error.object) or None
    if error.errno not in _ABOUT_THE_MACHINE or error.filename is None:
        return None
    place = error.filename2 if error.filename2 is not None else error.filename
    shown = printable(os.fsdecode(place)) if isinstance(place, str | bytes | os.PathLike) else str(place)
    return f"{shown}: {error.strerror}; check the path, its permissions and its disk, then run the same command again"
