"""Squares from slides: each shows a class that was drawn at even chances, wherever that class lies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.extraction.planning import plan_without_regions
from wsi_vmamba.extraction.tissue_files import find_tissue
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.segmentation.classes import OUTSIDE, UNKNOWN, ClassTable
from wsi_vmamba.segmentation.squares import Square
from wsi_vmamba.segmentation.truth import Grid, Truth
from wsi_vmamba.slide import ResolvedMpp, Slide
from wsi_vmamba.stream import read_target

#: First number of the random streams of squares that a model is judged on.
_JUDGED = 0x5E6


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSlide:
    """An open slide with what is known of it.

    Attributes:
        slide_id: its name.
        slide: is read from.
        plan: how target pixels relate to it; without regions.
        truth: what is known.
        places_l0: number of a class -> level-0 (x, y) of points in it, (n, 2).
        made_of: what says so, so that it shows when that changes.
    """

    slide_id: str
    slide: Slide = field(repr=False)
    plan: RegionPlan = field(repr=False)
    truth: Truth = field(repr=False)
    places_l0: dict[int, NDArray[np.float64]] = field(repr=False)
    made_of: str

    @classmethod
    def of(
        cls,
        slide: Slide,
        truth: Truth,
        classes: ClassTable,
        config: ExtractConfig,
        *,
        mpp: ResolvedMpp,
        slide_id: str,
        made_of: str,
    ) -> LabelledSlide:
        """Find the tissue of a slide, and where on it each class lies.

        Raises:
            SlideError: it cannot be read, or is too coarse.
        """
        tissue = find_tissue(config, slide, mpp=mpp.value, slide_id=slide_id).mask
        height, width = tissue.mask.shape
        grid = Grid(x_l0=0, y_l0=0, width_px=width, height_px=height, pixel_l0=tissue.downsample)
        labels = truth.labels(grid)
        if classes.outside == "unknown":
            labels[labels == OUTSIDE] = UNKNOWN
        # Outside of outlines only tissue is worth showing; what is outlined is shown wherever it lies.
        labels[(labels == OUTSIDE) & ~tissue.mask] = UNKNOWN
        places = {
            int(number): (np.argwhere(labels == number)[:, ::-1].astype(np.float64) + 0.5) * tissue.downsample
            for number in np.unique(labels)
            if number != UNKNOWN
        }
        plan = plan_without_regions(config, slide, mpp)
        return cls(slide_id=slide_id, slide=slide, plan=plan, truth=truth, places_l0=places, made_of=made_of)

    def square(self, *, x_px: int, y_px: int, side_px: int, outside: int) -> Square:
        """A square of the target canvas; ``outside`` is the number that what lies outside all classes gets."""
        pixels = read_target(self.slide, self.plan, x_px=x_px, y_px=y_px, width_px=side_px, height_px=side_px)
        scale = self.plan.l0_per_px
        grid = Grid(x_l0=x_px * scale, y_l0=y_px * scale, width_px=side_px, height_px=side_px, pixel_l0=scale)
        labels = self.truth.labels(grid)
        labels[labels == OUTSIDE] = outside
        labels[grid.rows_l0() >= self.plan.height_l0] = UNKNOWN
        labels[:, grid.columns_l0() >= self.plan.width_l0] = UNKNOWN
        return Square(pixels=pixels, labels=labels, source=f"{self.slide_id} at ({x_px}, {y_px})")


class SlideSquares:
    """Squares of slides, see `Squares`."""

    def __init__(
        self, slides: Sequence[LabelledSlide], classes: ClassTable, *, side_px: int, what: str
    ) -> None:
        """Refuse slides that do not show all classes.

        Args:
            slides: open.
            classes: what is told apart.
            side_px: of the squares, target pixels.
            what: the slides are for, for the message.

        Raises:
            DatasetError: a class is on none of the slides; it is named.
        """
        self._slides = slides
        self._classes = classes
        self._side_px = side_px
        self._holders: dict[int, list[LabelledSlide]] = defaultdict(list)
        for slide in slides:
            for number in sorted(slide.places_l0):
                self._holders[number].append(slide)
        self._numbers = list(range(classes.first, len(classes.names) + 1))
        missing = [classes.name_of(number) for number in self._numbers if number not in self._holders]
        if missing:
            raise DatasetError(
                f"the {what} slides need all classes, and none of these {len(slides)} shows {', '.join(missing)}: "
                "outline it, leave the class out, or add slides; what is outside is looked for on tissue only"
            )

    def draw(self, rng: np.random.Generator) -> Square:
        """See `Squares`: a class, a slide that has it, a place in it, which lies anywhere in the square."""
        number = int(rng.choice(self._numbers))
        holders = self._holders[number]
        slide = holders[int(rng.integers(len(holders)))]
        places = slide.places_l0[number]
        centre_px = places[int(rng.integers(len(places)))] / slide.plan.l0_per_px
        corner = np.floor(centre_px - rng.random(2) * self._side_px).astype(int)
        most = np.maximum(np.array([slide.plan.width_px, slide.plan.height_px]) - self._side_px, 0)
        x_px, y_px = np.clip(corner, 0, most).tolist()
        outside = OUTSIDE if self._classes.outside == "background" else UNKNOWN
        return slide.square(x_px=x_px, y_px=y_px, side_px=self._side_px, outside=outside)

    def judged(self, count: int) -> int:
        """See `Squares`."""
        return count

    def judge(self, index: int) -> Square:
        """See `Squares`."""
        return self.draw(np.random.default_rng([_JUDGED, index]))

    def describe(self) -> str:
        """See `Squares`."""
        return self._description

    @cached_property
    def _description(self) -> str:
        text = "\n".join(f"{slide.slide_id} {slide.made_of}" for slide in self._slides)
        return f"{len(self._slides)}, {hashlib.sha256(text.encode()).hexdigest()[:12]}"
