"""Views for self-supervised pretraining, cut straight from slides: no tile is ever written to a file."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError, SlideError, UsageError
from wsi_vmamba.pretraining.augment import change, draw_change
from wsi_vmamba.pretraining.crops import cut, draw_crop
from wsi_vmamba.pretraining.fields_of_view import (
    Field,
    SlideDraw,
    draw_field,
    draw_scale,
    read_field,
    stained_share,
)
from wsi_vmamba.pretraining.found_slides import FoundSlide, SlideToShow, find_all, fingerprint
from wsi_vmamba.pretraining.open_slides import OpenSlides
from wsi_vmamba.pretraining.settings_of_views import Augmentation, ViewSettings

__all__ = ["Augmentation", "SlideViews", "ViewSettings", "Views"]

#: Slides that are open at a time; each may hold a file descriptor or a few.
_OPEN_SLIDES = 64
#: Steps that are prepared before they are asked for.
_AHEAD = 2
#: Fields of one slide that are read for one that can be used.
_READS = 12


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of the fields of one step, uint8 RGB; the views of a field have the same place along B everywhere.

    Attributes:
        large: ``n_large`` tensors (B, large_px, large_px, 3).
        small: ``n_small`` tensors (B, small_px, small_px, 3).
        slide: (B,) int64, the place of each field's slide in the list that was given.
        um_per_px: (B,) float32, the scale of each field in micrometres per pixel; a view of a share s of the field,
            ``view_px`` wide, is at um_per_px · sqrt(s) · field_px / view_px.
    """

    large: tuple[torch.Tensor, ...]
    small: tuple[torch.Tensor, ...]
    slide: torch.Tensor
    um_per_px: torch.Tensor


class SlideViews:
    """Draws fields of view from slides and cuts views from them; a context manager.

    What a step shows depends on the slides, the settings, the seed, the rank and the step, and on nothing else: not on
    threads, on the steps asked for before, or on what was prepared ahead. A run that is resumed sees the same pixels
    as one that was not stopped.

    Attributes:
        left_out: the slides that cannot be used, each as the error that says why and what to do.
        slide_ids: names of those that are used.
        fingerprint: digest of the slides that are used, their resolutions and tissue; if it differs, so do the pixels.
        bad_reads: how many reads met a damaged tile so far, by slide_id; another field was drawn for each.
        blank_reads: how many reads showed hardly anything but glass, by slide_id; another field was drawn for each.
    """

    def __init__(
        self,
        slides: Sequence[SlideToShow],
        settings: ViewSettings,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mpp_override: float | None = None,
        tissue: str = "otsu",
        cache: Path | None = None,
        threads: int = 1,
    ) -> None:
        """Look at every slide and find its tissue.

        Args:
            slides: the list, such as `wsi_vmamba.extraction.sources.find_sources` makes it.
            settings: what to show.
            seed: of everything that is drawn.
            rank: of this process; each sees other fields.
            world: processes in all.
            mpp_override: micrometres per level-0 pixel of all slides.
            tissue: how tissue is found, a name in SEGMENTERS.
            cache: folder in which tissue is kept, so that another start with the same slides is quick.
            threads: threads that read and cut.

        Raises:
            DatasetError: no slide can be used.
            UsageError: rank, world or threads make no sense.
        """
        if not 0 <= rank < world:
            raise UsageError(f"expected a rank from 0 to {world - 1}, got {rank}")
        if threads < 1:
            raise UsageError(f"expected one thread or more, got {threads}")
        found, errors = find_all(slides, mpp_override=mpp_override, segmenter=tissue, cache=cache)
        self.left_out: tuple[SlideError, ...] = tuple(errors)
        self.slide_ids = tuple(slide.slide_id for slide in found)
        self.fingerprint = fingerprint(found)
        self.bad_reads: Counter[str] = Counter()
        self.blank_reads: Counter[str] = Counter()
        self._settings, self._seed, self._rank = settings, seed, rank
        self._draw = SlideDraw(found, settings)
        self._open = OpenSlides(limit=_OPEN_SLIDES)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="views") if threads > 1 else None

    def views(self, step: int) -> Views:
        """The views of a step, from 0; may be called from any thread.

        Raises:
            BadTileError: fields of one slide were damaged again and again.
            UnreadableSlideError: a slide went away.
        """
        settings = self._settings
        large = [_empty(settings.batch, settings.large_px) for _ in range(settings.n_large)]
        small = [_empty(settings.batch, settings.small_px) for _ in range(settings.n_small)]
        slide = np.empty(settings.batch, dtype=np.int64)
        um_per_px = np.empty(settings.batch, dtype=np.float32)

        def fill(place: int) -> None:
            rng = np.random.default_rng([self._seed, self._rank, step, place])
            found = self._draw.draw(rng)
            picture, field = self._read(rng, found)
            slide[place], um_per_px[place] = found.index, field.um_per_px
            for target in large:
                target[place] = _view(
                    rng, picture, settings, share=settings.large_share, side_px=settings.large_px
                )
            for target in small:
                target[place] = _view(
                    rng, picture, settings, share=settings.small_share, side_px=settings.small_px
                )

        for _ in (self._pool.map if self._pool else map)(fill, range(settings.batch)):
            pass
        return Views(
            large=tuple(torch.from_numpy(view) for view in large),
            small=tuple(torch.from_numpy(view) for view in small),
            slide=torch.from_numpy(slide),
            um_per_px=torch.from_numpy(um_per_px),
        )

    def batches(self, first: int, last: int) -> Iterator[tuple[int, Views]]:
        """Yield (step, views) for the steps from ``first`` up to but without ``last``, a few prepared ahead.

        What goes wrong while a step is prepared is raised where that step is asked for.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="views ahead") as worker:
            ahead: deque[Future[Views]] = deque()
            try:
                for step in range(first, last):
                    while len(ahead) <= _AHEAD and step + len(ahead) < last:
                        ahead.append(worker.submit(self.views, step + len(ahead)))
                    yield step, ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, rng: np.random.Generator, found: FoundSlide) -> tuple[NDArray[np.uint8], Field]:
        """A field of a slide and its pixels; a damaged or blank one is counted and another drawn."""
        settings = self._settings
        damage: BadTileError | None = None
        picture: NDArray[np.uint8] | None = None
        for _ in range(_READS):
            um_per_px = draw_scale(rng, found, settings)
            field = draw_field(rng, found, settings, um_per_px=um_per_px)
            try:
                with self._open.use(found.path) as slide:
                    picture = read_field(slide, field, mpp=found.mpp)
            except BadTileError as error:
                damage = error
                self._count(self.bad_reads, found)
                continue
            if stained_share(picture) >= settings.min_stained:
                return picture, field
            self._count(self.blank_reads, found)
        if picture is None and damage is not None:
            raise BadTileError(
                found.path,
                f"{_READS} fields of view in a row are damaged, the last: {damage.message}; replace the slide or leave "
                "it out",
                box_px=damage.box_px,
            )
        assert picture is not None
        return picture, field  # hardly stained anywhere: then that is what the slide looks like

    def _count(self, counter: Counter[str], found: FoundSlide) -> None:
        with self._lock:
            counter[found.slide_id] += 1

    def close(self) -> None:
        """Close the slides."""
        if self._pool is not None:
            self._pool.shutdown()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _view(
    rng: np.random.Generator,
    picture: NDArray[np.uint8],
    settings: ViewSettings,
    *,
    share: tuple[float, float],
    side_px: int,
) -> NDArray[np.uint8]:
    crop = draw_crop(rng, share=share, aspect=settings.aspect)
    how = draw_change(rng, settings.augmentation)
    return change(cut(picture, crop, side_px=side_px), how)


def _empty(batch: int, side_px: int) -> NDArray[np.uint8]:
    return np.empty((batch, side_px, side_px, 3), dtype=np.uint8)
