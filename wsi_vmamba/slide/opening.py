"""From a path to an open slide: every reader is asked in turn whether the place is its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from wsi_vmamba.content import HEAD_BYTES, describe
from wsi_vmamba.errors import SceneError, SlideError, UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.base import NeedsOtherReaderError, Slide, VendorLayoutError
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.slide.reader import Reader
from wsi_vmamba.slide.readers import find_reader, readers


def open_slide(path: Location, *, reader: str | None = None, scene: int | None = None) -> Slide:
    """Open a slide with the first reader that recognises it, or with ``reader``, a name in the READERS table.

    Where that reader finds a layout that it is not made for, the next that recognises the slide is asked.

    Args:
        path: the file, folder or URL.
        reader: the reader, instead of the one that the content asks for.
        scene: which of several pictures in the file; None for the one that is the slide, see `choose_scene`.

    Raises:
        SceneError: there is no such scene, or nothing tells which of several is the slide.
        UnreadableSlideError: missing, empty, damaged, or not a slide; the message says what was found instead.
        UnknownNameError: no such reader.
    """
    place: Location = path if is_url(path) else Path(path)
    if reader is not None:
        chosen = find_reader(reader)
        _refuse_remote(place, [chosen])
        return chosen.open(place, scene=scene)
    candidates = list(readers())
    _refuse_remote(place, candidates)
    head = _look(place)
    refusals: list[tuple[Reader, SlideError]] = []
    for candidate in candidates:
        try:
            if candidate.recognises(head, place):
                return candidate.open(place, scene=scene)
        except SceneError:
            raise
        except SlideError as error:
            if not refusals and not isinstance(error, NeedsOtherReaderError):
                raise
            refusals.append((candidate, error))
    if refusals:
        raise _refused_by_all(place, refusals)
    raise UnreadableSlideError(place, _nothing_known(place, head))


def _refuse_remote(place: Location, asked: list[Reader]) -> None:
    """Refuse what none of some readers reads from a URL, before the network is asked."""
    if not is_url(place):
        return
    local_only = [suffix for each in readers() if not each.remote for suffix in each.suffixes]
    if not any(each.remote for each in asked) or str(place).lower().endswith(tuple(local_only)):
        remote = [each for each in readers() if each.remote]
        endings = ", ".join(ending for each in remote for ending in (*each.folder_suffixes, *each.suffixes))
        raise UnreadableSlideError(
            place,
            f"from a URL only {_listed(remote)} is read ({endings}); copy other slides to a local disk first",
        )


def _look(place: Location) -> bytes:
    """The first bytes of a file; none of a folder or a URL.

    Raises:
        UnreadableSlideError: it cannot be looked at, or is empty.
    """
    if is_url(place) or Path(place).is_dir():
        return b""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not hang a run
        try:
            head = os.read(descriptor, HEAD_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableSlideError(place, f"cannot read the file ({error.strerror})") from error
    if not head:
        raise UnreadableSlideError(place, f"the file is empty (0 bytes); {_expected()}")
    return head


def _refused_by_all(place: Location, refusals: list[tuple[Reader, SlideError]]) -> UnreadableSlideError:
    """The error where a reader knew the file and left it to others, and none of them reads it."""
    (knew_it, first), *others = refusals
    words = "; ".join(f"{reader.title}: {error.message}" for reader, error in refusals)
    if not others:
        asked = ", ".join(reader.title for reader in readers() if reader is not knew_it)
        words += f"; {asked}: none of them knows it"
    # What nobody reads is not read. A vendor's file that others know and cannot open is as likely damaged.
    is_unsupported = not isinstance(first, VendorLayoutError) or any(
        isinstance(error, UnsupportedSlideError) for _, error in others
    )
    return (UnsupportedSlideError if is_unsupported else UnreadableSlideError)(place, words)


def _nothing_known(place: Location, head: bytes) -> str:
    if is_url(place) or head:
        return f"{_expected()}, found {describe(head)}"
    return "expected a slide, found a folder; name the slide, or `extract` the folder"


def _expected() -> str:
    return f"expected a whole-slide image ({_listed(readers())})"


def _listed(some: Iterable[Reader]) -> str:
    return ", ".join(name for reader in some for name in reader.formats)
