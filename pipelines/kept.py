"""What is kept of slides that are not whole: said at the end of a run, removed where it is of no use any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.errors import ClaimedError, StoreError
from wsi_vmamba.store import count_kept, remove_journal, take_claim
from wsi_vmamba.store.claims import claim_path
from wsi_vmamba.store.journal import journal_path


def say_kept(out: Path, slide_ids: Sequence[str]) -> None:
    """Say how many regions are kept of each slide that nobody is at, and how to go on; nothing is written."""
    any_kept = False
    for slide_id in slide_ids:
        final = out / f"{slide_id}.zarr"
        if not journal_path(final).exists() or claim_path(final).exists():
            continue
        try:
            kept = count_kept(final)
        except StoreError as error:  # whoever goes on with the slide meets it again
            console.warn(str(error))
            continue
        if kept is None:
            _remove(final)  # its process died before the first region
            continue
        console.say(f"{slide_id}: {kept} are kept")
        any_kept = True
    if any_kept:
        console.say("run the same command again to go on from there")


def remove_spent(final: Path) -> None:
    """Remove what a run left of a slide that is whole: it died in the instant between, or was to replace the whole one.

    A run that is processing the slide keeps what it has.
    """
    if journal_path(final).exists():
        _remove(final)


def _remove(final: Path) -> None:
    with suppress(ClaimedError), take_claim(final):
        remove_journal(final)
