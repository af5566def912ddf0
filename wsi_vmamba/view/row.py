"""One line of what is shown: a slide, and what is known of it before it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsi_vmamba.slide.location import Location, is_url


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """A slide in the list.

    Attributes:
        name: its slide_id, unique in the list.
        place: its file or URL; None where that is not known.
        problem: why it cannot be shown, where that is known before anybody tries; empty otherwise.
        warning: what is odd about it and does not keep it from being shown.
        reader: name in READERS; None for the one that recognises it.
        scene: which picture of its file; None for the one that is the slide.
        mpp: micrometres per level-0 pixel, where something else than the file says it.
        label: 0 or 1, or the name of a class; None where unknown.
        split: "train", "validation" or "test".
        score: what a model says, as a probability.
        decision: 0 or 1, or the name of a class: what follows from the score.
        patient: whose slide it is.
        features: its feature file.
        prediction: the values of its patches, as `predict` leaves them.
        tissue: outlines of its tissue.
        annotation: its outlines.
        extra: further columns, as text.
        blank_l0: width and height of the slide, where it is shown as blank ground because its file is not there.
    """

    name: str
    place: Location | None
    problem: str = ""
    warning: str = ""
    reader: str | None = None
    scene: int | None = None
    mpp: float | None = None
    label: int | str | None = None
    split: str | None = None
    score: float | None = None
    decision: int | str | None = None
    patient: str | None = None
    features: Path | None = None
    prediction: Path | None = None
    tissue: Path | None = None
    annotation: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    blank_l0: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """The only way to the slide from outside: says nothing of where it lies, and is the same tomorrow."""
        return "s" + hashlib.blake2b(self.name.encode(errors="surrogateescape"), digest_size=8).hexdigest()

    def stamp(self) -> str:
        """Changes when its file or its features do: what was made of them is kept under it."""
        seen = [
            str(self.place),
            str(self.scene),
            str(self.mpp),
            *_stamp_of(self.place),
            *_stamp_of(self.features),
            *_stamp_of(self.prediction),
            *_stamp_of(self.tissue),
            *_stamp_of(self.annotation),
        ]
        return hashlib.blake2b("\0".join(seen).encode(errors="surrogateescape"), digest_size=6).hexdigest()


def _stamp_of(place: Location | None) -> tuple[str, ...]:
    """Size and time of a file, or of a folder; nothing of what is not there."""
    if place is None or is_url(place):
        return ()
    try:
        found = Path(place).stat()
    except OSError:
        return ("absent",)
    return str(found.st_size), str(found.st_mtime_ns)
