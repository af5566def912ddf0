"""Views for self-supervised pretraining, cut straight from slides: no tile is ever written to a file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch

from wsi_vmamba.errors import SlideError, UsageError
from wsi_vmamba.pretraining.augment import Change, change, draw_changes
from wsi_vmamba.pretraining.crops import Crop, cut, draw_crops
from wsi_vmamba.pretraining.field_reader import FieldReader
from wsi_vmamba.pretraining.found_slides import SlideToShow, find_all, fingerprint
from wsi_vmamba.pretraining.measurements import COUNT, measure
from wsi_vmamba.pretraining.view_settings import Augmentation, ViewSettings

__all__ = ["Augmentation", "SlideViews", "ViewSettings", "Views"]

T = TypeVar("T")

#: Steps that are prepared before they are asked for.
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of the fields of one step, uint8 RGB; the views of a field have the same place along B everywhere.

    Attributes:
        large: ``n_large`` tensors (B, large_px, large_px, 3).
        small: ``n_small`` tensors (B, small_px, small_px, 3).
        slide: (B,) int64, the place of each field's slide in the list that was given.
        um_per_px: (B,) float32, the scale of each field in micrometres per pixel; a view of a share s of the field,
            ``view_px`` wide, is at about um_per_px · sqrt(s) · field_px / view_px.
        measured: (B, COUNT) float32, the first large views as `wsi_vmamba.pretraining.measurements` measures them
            before they are changed; None where nothing is measured.
    """

    large: tuple[torch.Tensor, ...]
    small: tuple[torch.Tensor, ...]
    slide: torch.Tensor
    um_per_px: torch.Tensor
    measured: torch.Tensor | None = None


class SlideViews:
    """Draws fields of view from slides and cuts views from them; a context manager.

    What a step shows depends on the slides, the settings, the seed, the rank and the step, and on nothing else: not on
    threads, on the steps asked for before, or on what was prepared ahead. A run that is resumed sees the same pixels
    as one that was not stopped.

    Slides decode the tiles of one read in several threads, and OpenCV has its own; a process that shares its cores
    with others limits them by `wsi_vmamba.slide.workers.limit_threads` and ``cv2.setNumThreads``.

    Attributes:
        left_out: the slides that cannot be used, each as the error that says why and what to do.
        slide_ids: names of those that are used.
        fingerprint: digest of the slides that are used, their resolutions and tissue; if it differs, so do the pixels.
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
        on_slide: Callable[[str], None] = lambda slide_id: None,
    ) -> None:
        """Look at every slide and find its tissue.

        Args:
            slides: the list, such as `wsi_vmamba.extraction.sources.find_sources` makes it.
            settings: what to show.
            seed: of everything that is drawn.
            rank: of this process; each sees other fields.
            world: processes in all.
            mpp_override: micrometres per level-0 pixel of all slides, before what manifest and files say.
            tissue: how tissue is found, a name in SEGMENTERS.
            cache: folder in which tissue is kept, so that another start with the same slides is quick.
            threads: threads that read and cut.
            on_slide: called with the name of each slide once it was looked at, which takes about a second the first
                time; to show progress.

        Raises:
            DatasetError: no slide can be used.
            UsageError: seed, rank, world or threads make no sense.
        """
        if seed < 0 or not 0 <= rank < world or threads < 1:
            raise UsageError(
                "expected a seed from 0, a rank from 0 and less than world, and one thread or more, got "
                f"seed {seed}, rank {rank}, world {world}, threads {threads}"
            )
        found, errors = find_all(
            slides, mpp_override=mpp_override, segmenter=tissue, cache=cache, on_slide=on_slide
        )
        self.left_out: tuple[SlideError, ...] = tuple(errors)
        self.slide_ids = tuple(slide.slide_id for slide in found)
        self.fingerprint = fingerprint(found)
        self._settings, self._seed, self._rank = settings, seed, rank
        self._reader = FieldReader(found, settings)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="views")

    @property
    def bad_reads(self) -> Counter[str]:
        """How many reads met a damaged tile so far, by slide_id; another field was drawn for each."""
        return self._reader.bad_reads

    @property
    def blank_reads(self) -> Counter[str]:
        """How many reads showed hardly anything but glass, by slide_id; another field was drawn for each."""
        return self._reader.blank_reads

    def views(self, step: int) -> Views:
        """The views of a step, from 0; may be called from any thread.

        Raises:
            BadTileError: fields of one slide were damaged again and again.
            UnreadableSlideError: a slide went away.
        """
        settings = self._settings
        sides_px, crops, changes = self._draw_cuts(step)
        out = [np.empty((settings.batch, side, side, 3), dtype=np.uint8) for side in sides_px]
        slide = np.empty(settings.batch, dtype=np.int64)
        um_per_px = np.empty(settings.batch, dtype=np.float32)
        measured = np.empty((settings.batch, COUNT), dtype=np.float32) if settings.measure else None

        def fill(at: int) -> None:
            found, field, picture = self._reader.read(self._rng(step, 1 + at))
            slide[at], um_per_px[at] = found.index, field.um_per_px
            cuts = [
                cut(picture, crop, side_px=side_px) for crop, side_px in zip(crops[at], sides_px, strict=True)
            ]
            if measured is not None:
                measured[at] = measure(cuts[0])
            for target, view, how in zip(out, cuts, changes[at], strict=True):
                target[at] = change(view, how)

        for _ in self._pool.map(fill, range(settings.batch)):
            pass  # raises what went wrong
        views = tuple(torch.from_numpy(view) for view in out)
        return Views(
            large=views[: settings.n_large],
            small=views[settings.n_large :],
            slide=torch.from_numpy(slide),
            um_per_px=torch.from_numpy(um_per_px),
            measured=None if measured is None else torch.from_numpy(measured),
        )

    def _draw_cuts(self, step: int) -> tuple[list[int], list[list[Crop]], list[list[Change]]]:
        """Sides of the views of a field; crops and changes, by field and view. Drawn at once, which is quicker."""
        settings = self._settings
        rng = self._rng(step, 0)
        large, small = (
            draw_crops(rng, count=settings.batch * count, share=share, aspect=settings.aspect)
            for count, share in (
                (settings.n_large, settings.large_share),
                (settings.n_small, settings.small_share),
            )
        )
        n_views = settings.n_large + settings.n_small
        changes = draw_changes(rng, settings.augmentation, count=settings.batch * n_views)
        crops = [a + b for a, b in zip(_rows(large, settings), _rows(small, settings), strict=True)]
        sides = [settings.large_px] * settings.n_large + [settings.small_px] * settings.n_small
        return sides, crops, _rows(changes, settings)

    def _rng(self, step: int, stream: int) -> np.random.Generator:
        """The numbers of one field of a step (from 1), or of what is drawn for all of them (0)."""
        return np.random.default_rng([self._seed, self._rank, step, stream])

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

    def close(self) -> None:
        """Wait for what is being prepared, then close the slides."""
        self._pool.shutdown()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rows(of_all: list[T], settings: ViewSettings) -> list[list[T]]:
    """A list of all fields' as one list for each field."""
    each = len(of_all) // settings.batch
    return [of_all[at * each : (at + 1) * each] for at in range(settings.batch)]
