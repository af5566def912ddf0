"""What is done of a slide that is not whole yet: a file of its regions that outlives the process (ADR 6).

The journal of ``<slide_id>.zarr`` is ``.<slide_id>.zarr.regions`` beside it. Whoever holds the claim of the slide may
write it, nobody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wsi_vmamba.durable import active_lock, active_partials, describe_os_error, partial_name, sync_folder
from wsi_vmamba.errors import StoreError
from wsi_vmamba.store.journal_file import (
    FRAME,
    DoneRegion,
    JournalReader,
    NotAJournalError,
    fits,
    frame,
    pack,
    preamble,
    unpack,
    write_all,
)
from wsi_vmamba.store.meta import differences

#: What was written reaches the disk at least this often, in seconds; a power cut costs no more work than that, and
#: an encoder that makes a hundred regions a second does not wait for the disk a hundred times. The death of the
#: process costs nothing: what was written is with the system.
SYNC_EVERY_S = 1.0
_LONGEST_NAME = 255


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How much of a slide a journal holds.

    Attributes:
        regions: whole regions in it.
        n_regions: regions of the slide.
    """

    regions: int
    n_regions: int

    def __str__(self) -> str:
        return f"{self.regions} of {self.n_regions} regions"


def journal_path(final: Path) -> Path:
    """Where the journal of a feature file lies."""
    name = f".{final.name}.regions"
    # Room for the temporary name, with a host name and a pid.
    if len(name.encode()) + 80 > _LONGEST_NAME:
        name = f".{hashlib.sha256(final.name.encode()).hexdigest()[:32]}.regions"
    return final.with_name(name)


class RegionJournal:
    """The regions of one slide, kept as they come; made by `open_journal`."""

    def __init__(self, final: Path, file: BinaryIO, spans: dict[int, tuple[int, int, int]], dim: int) -> None:
        """Take over an open file that holds whole records only, at (start, length, checksum) by region."""
        self.final = final
        self.path = journal_path(final)
        self._file = file
        self._spans = spans
        self._dim = dim
        self._synced_s = time.monotonic()

    def __contains__(self, index: int) -> bool:
        return index in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def append(self, region: DoneRegion) -> None:
        """Keep a region.

        Raises:
            StoreError: the disk refuses; what was kept before stays whole.
        """
        payload = pack(region)
        start = self._file.seek(0, os.SEEK_END)
        try:
            write_all(self._file, frame(region.index, payload) + payload)
            if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
                self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise _failure(self.final, error) from error
        self._spans[region.index] = (start + FRAME, len(payload), zlib.crc32(payload))

    def read(self, index: int) -> DoneRegion:
        """Give back a region that is in the journal.

        Raises:
            StoreError: it is not any more what was written.
        """
        start, length, checksum = self._spans[index]
        payload = os.pread(self._file.fileno(), length, start)
        if len(payload) != length or zlib.crc32(payload) != checksum:
            raise StoreError(
                f"{self.path}: region {index} is damaged on the disk; check it and run the same command again, which "
                "makes that region anew"
            )
        return unpack(index, payload, self._dim)

    def sync(self) -> None:
        """Have all of it reach the disk."""
        os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Keep the file for whoever goes on with the slide; without any region there is nothing to keep."""
        if self._file.closed:
            return
        if not self._spans:
            self.discard()
            return
        with contextlib.suppress(OSError):  # the disk is full or gone: keep what was written
            self.sync()
        self._file.close()

    def discard(self) -> None:
        """Remove the file, unless another process has put its own there; again does nothing."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
                self.path.unlink()
        self._file.close()


def open_journal(
    final: Path,
    facts: Mapping[str, Any],
    *,
    n_patches: list[int],
    dim: int,
    say: Callable[[str], None],
) -> RegionJournal:
    """Go on with what is kept of a slide, or begin; the caller has the claim of ``final``.

    What is kept is written anew before it is used: a process that was only suspended may still write to the old file.

    Args:
        final: name of the feature file.
        facts: what the features depend on, as JSON values; regions made with others are removed.
        n_patches: patches of each region of the plan.
        dim: length of a feature.
        say: takes one line about what was found.

    Raises:
        StoreError: the disk refuses.
    """
    path = journal_path(final)
    header: dict[str, Any] = json.loads(json.dumps({**facts, "n_patches": n_patches, "dim": dim}))
    temporary = path.with_name(partial_name(path))
    with active_lock:
        active_partials.add(temporary)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_error:
            file = on_error.enter_context(temporary.open("w+b", buffering=0))
            on_error.callback(temporary.unlink, missing_ok=True)
            write_all(file, preamble(header))
            spans: dict[int, tuple[int, int, int]] = {}
            for index, payload in _usable(path, header, say):
                start = file.tell() + FRAME
                write_all(file, frame(index, payload) + payload)
                spans[index] = (start, len(payload), zlib.crc32(payload))
            if spans:
                os.fsync(file.fileno())
            temporary.replace(path)
            if spans:
                sync_folder(path.parent)
            on_error.pop_all()
    except OSError as error:
        raise error if isinstance(error, StoreError) else _failure(final, error) from error
    finally:
        with active_lock:
            active_partials.discard(temporary)
    return RegionJournal(final, file, spans, dim)


def count_kept(final: Path) -> Kept | None:
    """How much is kept of a slide, by the frames of the records; None where nothing is."""
    try:
        with JournalReader.open(journal_path(final)) as reader:
            kept = {index for index, _, _ in reader.frames()}
            return Kept(regions=len(kept), n_regions=len(reader.header["n_patches"])) if kept else None
    except (FileNotFoundError, NotAJournalError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {journal_path(final)}: {error.strerror or error}") from error


def remove_journal(final: Path) -> None:
    """Remove what is kept of a slide; the caller has its claim, or knows that nobody is processing the slide."""
    journal_path(final).unlink(missing_ok=True)


def _usable(path: Path, asked: dict[str, Any], say: Callable[[str], None]) -> Iterator[tuple[int, bytes]]:
    """The regions of an old journal that are whole and what this run would make, and their payloads."""
    try:
        with JournalReader.open(path) as reader:
            differing = list(differences(reader.header, asked))
            if differing:
                n = len({index for index, _, _ in reader.frames()})
                if n:
                    shown = "; ".join(differing[:3]) + ("; …" if len(differing) > 3 else "")
                    say(f"starts again: the {n} region(s) that were kept belong to something else ({shown})")
                return
            kept: set[int] = set()
            damaged = 0
            for index, length, checksum in reader.frames():
                payload = reader.file.read(length)
                if index in kept:
                    continue
                if zlib.crc32(payload) != checksum or not fits(index, payload, asked):
                    damaged += 1
                    continue
                kept.add(index)
                yield index, payload
            if damaged:
                say(f"{damaged} region(s) that were kept are damaged on disk and are computed again")
            if kept:
                say(
                    f"goes on: {Kept(regions=len(kept), n_regions=len(asked['n_patches']))} are already there"
                )
    except (FileNotFoundError, NotAJournalError):
        return


def _failure(final: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {final}: {describe_os_error(error, folder=final.parent)}")
