"""The slides of a pretraining, looked at once: which can be read, how fine they are, where their tissue is."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import DatasetError, NoTissueError, SlideError, UnreadableSlideError
from wsi_vmamba.pretraining.tissue_places import TissuePlaces
from wsi_vmamba.slide import Slide, open_slide, resolve_mpp
from wsi_vmamba.slide.base import Level
from wsi_vmamba.slide.identity import slide_identity
from wsi_vmamba.slide.location import Location
from wsi_vmamba.slide.tolerant import TolerantSlide
from wsi_vmamba.tissue import segment_tissue

#: Files of another version are made anew.
_VERSION = 1
#: What a damaged or foreign file of a cache raises as it is read.
_NO_CACHE = (OSError, ValueError, KeyError, EOFError)


class SlideToShow(Protocol):
    """A slide of the list that a user gave; `wsi_vmamba.extraction.sources.SlideSource` is one."""

    @property
    def slide_id(self) -> str:
        """Its unique name."""

    @property
    def path(self) -> Location:
        """Its file or URL."""

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 pixel by the manifest; None: by the file."""

    @property
    def problem(self) -> str:
        """Why it cannot be read, where that is known already; else empty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundSlide:
    """A slide that has tissue and a resolution.

    Attributes:
        index: its place in the list that was given.
        slide_id: its name.
        path: its file or URL.
        mpp: micrometres per level-0 pixel.
        levels: its pyramid.
        places: where its tissue is.
    """

    index: int
    slide_id: str
    path: Location
    mpp: float
    levels: tuple[Level, ...]
    places: TissuePlaces


def find_all(
    slides: Sequence[SlideToShow],
    *,
    mpp_override: float | None,
    segmenter: str,
    cache: Path | None,
    on_slide: Callable[[str], None],
) -> tuple[list[FoundSlide], list[SlideError]]:
    """Look at each slide; those that cannot be used come back as their errors, in the order of the list.

    Args:
        slides: the list.
        mpp_override: micrometres per level-0 pixel of all slides, before what manifest and files say.
        segmenter: how tissue is found, a name in SEGMENTERS.
        cache: folder in which tissue is kept from run to run; None: it is looked for each time.
        on_slide: called with the name of each slide once it was looked at.

    Raises:
        DatasetError: none of the slides can be used.
        StoreError: the cache cannot be written.
    """
    found: list[FoundSlide] = []
    errors: list[SlideError] = []
    for index, slide in enumerate(slides):
        try:
            found.append(_find(index, slide, mpp_override=mpp_override, segmenter=segmenter, cache=cache))
        except SlideError as error:
            errors.append(error)
        on_slide(slide.slide_id)
    if not found:
        first = f"; the first: {errors[0]}" if errors else ""
        raise DatasetError(f"none of {len(slides)} slides can be used for pretraining{first}")
    return found, errors


def fingerprint(slides: Iterable[FoundSlide]) -> str:
    """A digest of what decides which pixels are shown: names, resolutions and tissue of the slides, in their order."""
    summary = hashlib.sha256()
    for slide in slides:
        summary.update(f"{slide.index}\0{slide.slide_id}\0{slide.mpp!r}\n".encode(errors="surrogateescape"))
        summary.update(slide.places.packed.tobytes())
    return summary.hexdigest()


def _find(
    index: int, source: SlideToShow, *, mpp_override: float | None, segmenter: str, cache: Path | None
) -> FoundSlide:
    if source.problem:
        raise UnreadableSlideError(source.path, source.problem)
    with open_slide(source.path) as slide:
        override = source.mpp if mpp_override is None else mpp_override
        mpp = resolve_mpp(slide, mpp_override=override).value
        places = _tissue(slide, source, mpp=mpp, segmenter=segmenter, cache=cache)
        if places.count == 0:
            raise NoTissueError(
                slide.path,
                f"no tissue was found (segmenter {segmenter}); leave the slide out, or choose another segmenter",
            )
        return FoundSlide(
            index=index,
            slide_id=source.slide_id,
            path=source.path,
            mpp=mpp,
            levels=slide.levels,
            places=places,
        )


def _tissue(
    slide: Slide, source: SlideToShow, *, mpp: float, segmenter: str, cache: Path | None
) -> TissuePlaces:
    identity = None if cache is None else slide_identity(str(source.path))
    if cache is None or identity is None:
        return _segment(slide, mpp=mpp, segmenter=segmenter)
    base = slide.levels[0]
    # Two Deep Zoom descriptors may be alike in name, size and time; what they say of the picture rarely is.
    key = (
        f"{_VERSION}\0{source.slide_id}\0{identity}\0{base.width_px}\0{base.height_px}\0{mpp!r}\0{segmenter}"
    )
    file = cache / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.npz"
    try:
        return _load(file)
    except _NO_CACHE:  # not there yet, or damaged: made anew
        places = _segment(slide, mpp=mpp, segmenter=segmenter)
        _save(file, places)
        return places


def _segment(slide: Slide, *, mpp: float, segmenter: str) -> TissuePlaces:
    # A damaged tile is white here, so that its place is not drawn.
    return TissuePlaces.of(segment_tissue(TolerantSlide(slide), mpp=mpp, segmenter=segmenter))


def _load(file: Path) -> TissuePlaces:
    with np.load(file, allow_pickle=False) as kept:
        width_px, downsample, um_per_px = (float(number) for number in kept["numbers"])
        return TissuePlaces(
            kept["packed"], width_px=int(width_px), downsample=downsample, um_per_px=um_per_px
        )


def _save(file: Path, places: TissuePlaces) -> None:
    content = io.BytesIO()
    numbers = np.array([places.width_px, places.downsample, places.um_per_px], dtype=np.float64)
    np.savez_compressed(content, packed=places.packed, numbers=numbers)
    write_atomic(file, content.getvalue())
