"""Reads fields of view from slides; a damaged or blank one is counted, and another is drawn in its place."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import BadTileError
from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.pretraining.fields_of_view import Field, SlideDraw, draw_field
from wsi_vmamba.pretraining.found_slides import FoundSlide
from wsi_vmamba.pretraining.open_slides import OpenSlides
from wsi_vmamba.pretraining.view_settings import ViewSettings
from wsi_vmamba.slide import Slide

Picture = NDArray[np.uint8]

#: Slides that are open at a time; each may hold a file descriptor or a few.
_OPEN_SLIDES = 64
#: Fields of one slide that are read for one that can be used.
_READS = 12
#: A pixel of at least this level in all colours is glass.
_GLASS_LEVEL = 222


class FieldReader:
    """Draws and reads fields of view, from any number of threads.

    Attributes:
        bad_reads: how many reads met a damaged tile so far, by slide_id.
        blank_reads: how many reads showed hardly anything but glass, by slide_id.
    """

    def __init__(self, slides: Sequence[FoundSlide], settings: ViewSettings) -> None:
        """Open nothing yet."""
        self.bad_reads: Counter[str] = Counter()
        self.blank_reads: Counter[str] = Counter()
        self._settings = settings
        self._draw = SlideDraw(slides, settings)
        self._open = OpenSlides(limit=_OPEN_SLIDES)
        self._lock = threading.Lock()

    def read(self, rng: np.random.Generator) -> tuple[FoundSlide, Field, Picture]:
        """Draw a slide and a field of it, and read that from the level it is drawn on.

        Where all fields of a few are blank, the last is taken: that is what the slide looks like.

        Returns:
            The slide, the field, and its pixels, uint8 RGB, (side_px, side_px, 3).

        Raises:
            BadTileError: a few fields of a slide in a row are damaged.
            UnreadableSlideError: the slide went away.
        """
        found = self._draw.draw(rng)
        last: tuple[FoundSlide, Field, Picture] | None = None
        damage: BadTileError | None = None
        for _ in range(_READS):
            field = draw_field(rng, found, self._settings)
            try:
                with self._open.use(found.path) as slide:
                    last = found, field, read_field(slide, field)
            except BadTileError as error:
                damage = error
                self._count(self.bad_reads, found)
                continue
            if stained_share(last[2]) >= self._settings.min_stained:
                return last
            self._count(self.blank_reads, found)
        if last is None:
            assert damage is not None
            raise BadTileError(
                found.path,
                f"{_READS} fields of view in a row are damaged, the last: {damage.message}; replace the slide or leave "
                "it out",
                box_px=damage.box_px,
            ) from damage
        return last

    def _count(self, counter: Counter[str], found: FoundSlide) -> None:
        with self._lock:
            counter[found.slide_id] += 1

    def close(self) -> None:
        """Close the slides; to be called when nobody reads any more."""
        self._open.close()


def read_field(slide: Slide, field: Field) -> Picture:
    """The pixels of a field, uint8 RGB, (side_px, side_px, 3).

    Raises:
        BadTileError: a tile under it cannot be decoded.
        UnreadableSlideError: the slide cannot be read.
    """
    downsample = slide.levels[field.level].downsample
    return slide.read_region(
        x_l0=level_to_l0_px(field.x_px, downsample=downsample),
        y_l0=level_to_l0_px(field.y_px, downsample=downsample),
        level=field.level,
        width_px=field.side_px,
        height_px=field.side_px,
    )


def stained_share(picture: Picture) -> float:
    """How much of a picture is darker than glass in a colour, 0 to 1, by every fourth row and column."""
    seen = np.ascontiguousarray(picture[::4, ::4])
    glass = cv2.countNonZero(cv2.inRange(seen, (_GLASS_LEVEL,) * 3, (255,) * 3))
    return 1 - float(glass) / float(seen.shape[0] * seen.shape[1])
