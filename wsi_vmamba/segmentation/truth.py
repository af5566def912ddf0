"""What is known of the pixels of a slide: outlines or a label mask, as the numbers of classes on any grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.annotation import Annotation, Role
from wsi_vmamba.annotation.raster import draw
from wsi_vmamba.errors import MaskError
from wsi_vmamba.masks.find import IMAGE_SUFFIXES
from wsi_vmamba.masks.image import read_fitting
from wsi_vmamba.segmentation.classes import OUTSIDE, UNKNOWN, ClassTable
from wsi_vmamba.slide.base import Slide

Labels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A rectangle of pixels laid over a slide.

    Attributes:
        x_l0: left edge, level-0 pixels.
        y_l0: top edge.
        width_px: pixels across.
        height_px: pixels down.
        pixel_l0: side of a pixel in level-0 pixels.
    """

    x_l0: float
    y_l0: float
    width_px: int
    height_px: int
    pixel_l0: float

    @classmethod
    def of_slide(cls, slide: Slide, *, pixel_l0: float) -> Grid:
        """The grid that covers a slide."""
        base = slide.levels[0]
        return cls(
            x_l0=0, y_l0=0, width_px=int(-(-base.width_px // pixel_l0)), height_px=int(-(-base.height_px // pixel_l0)),
            pixel_l0=pixel_l0,
        )  # fmt: skip

    def columns_l0(self) -> NDArray[np.float64]:
        """Level-0 x of the centre of each column."""
        return self.x_l0 + (np.arange(self.width_px, dtype=np.float64) + 0.5) * self.pixel_l0

    def rows_l0(self) -> NDArray[np.float64]:
        """Level-0 y of the centre of each row."""
        return self.y_l0 + (np.arange(self.height_px, dtype=np.float64) + 0.5) * self.pixel_l0


class Truth(Protocol):
    """What is known of a slide.

    Attributes:
        notes: what was left out of it or repaired, for the user to see.
    """

    notes: tuple[str, ...]

    def labels(self, grid: Grid) -> Labels:
        """The number at the centre of each pixel: 0 outside, 1 and on the classes, 255 unknown."""
        ...


class Nothing:
    """A slide of which it is known that nothing of any class is on it."""

    notes: tuple[str, ...] = ()

    def labels(self, grid: Grid) -> Labels:
        """See `Truth`."""
        return np.full((grid.height_px, grid.width_px), OUTSIDE, np.uint8)


class Outlines:
    """Outlines; where they overlap the smaller one counts, and what is excluded is outside of all."""

    def __init__(self, annotation: Annotation, classes: ClassTable) -> None:
        """Order the outlines from the largest to the smallest."""
        self.notes = annotation.notes
        areas = [
            (classes.number_of(one.known_as), one.geometry)
            for one in annotation.outlines
            if one.role is Role.INCLUDED
        ]
        areas += [(UNKNOWN, geometry) for geometry in annotation.left_out]
        areas.sort(key=lambda area: -shapely.area(area[1]))
        areas += [(OUTSIDE, geometry) for geometry in annotation.excluded]
        self._numbers = [number for number, _ in areas]
        self._geometries = [geometry for _, geometry in areas]
        self._tree = shapely.STRtree(self._geometries)

    def labels(self, grid: Grid) -> Labels:
        """See `Truth`."""
        found = np.full((grid.height_px, grid.width_px), OUTSIDE, np.uint8)
        right = grid.x_l0 + grid.width_px * grid.pixel_l0
        bottom = grid.y_l0 + grid.height_px * grid.pixel_l0
        box = shapely.box(grid.x_l0, grid.y_l0, right, bottom)
        for index in np.sort(self._tree.query(box)).tolist():
            self._paint(found, grid, self._numbers[index], self._geometries[index])
        return found

    @staticmethod
    def _paint(found: Labels, grid: Grid, number: int, geometry: Any) -> None:
        """Paint one area, on those pixels of the grid that its box touches."""
        bounds = np.asarray(shapely.bounds(geometry))
        sides = (bounds - [grid.x_l0, grid.y_l0] * 2) / grid.pixel_l0
        left, top = np.clip(np.floor(sides[:2]), 0, (grid.width_px, grid.height_px)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(sides[2:]), 0, (grid.width_px, grid.height_px)).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        corner = np.array([grid.x_l0 + left * grid.pixel_l0, grid.y_l0 + top * grid.pixel_l0])
        far = np.array([right - left, bottom - top]) * grid.pixel_l0
        here = shapely.transform(geometry, lambda points: points - corner)
        # What lies beyond a pixel around does not change which centres are inside, and costs time for each corner.
        here = shapely.clip_by_rect(here, -grid.pixel_l0, -grid.pixel_l0, *(far + grid.pixel_l0))
        inside = draw(here, width_px=right - left, height_px=bottom - top, downsample=grid.pixel_l0)
        found[top:bottom, left:right][inside] = number


class LabelMask:
    """A picture of the whole slide whose values are numbers of classes."""

    def __init__(self, numbers: Labels, *, pixel_l0: float, notes: tuple[str, ...] = ()) -> None:
        """Keep the picture and the level-0 pixels per pixel of it."""
        self.notes = notes
        self._numbers = numbers
        self._pixel_l0 = pixel_l0

    @classmethod
    def read(
        cls, path: Path, slide: Slide, classes: ClassTable, *, mpp: float, finest_mpp: float
    ) -> LabelMask:
        """Read a grey picture of 8 bits: 0 outside, 1 and on the classes in their order, 255 unknown.

        Raises:
            MaskError: it cannot be read, has colours, is of another shape than the slide, or has a number that is
                of no class.
        """
        picture, pixel_l0 = read_fitting(path, slide, mpp=mpp, finest_mpp=finest_mpp)
        try:
            numbers = numbers_of(picture.grey, classes)
        except ValueError as error:
            raise MaskError(slide.path, f"mask {path}: {error}") from error
        return cls(numbers, pixel_l0=pixel_l0, notes=picture.notes)

    def labels(self, grid: Grid) -> Labels:
        """See `Truth`; beyond the picture is outside."""
        height, width = self._numbers.shape
        columns = np.floor(grid.columns_l0() / self._pixel_l0).astype(np.int64)
        rows = np.floor(grid.rows_l0() / self._pixel_l0).astype(np.int64)
        found = self._numbers[np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))]
        found[(rows < 0) | (rows >= height)] = OUTSIDE
        found[:, (columns < 0) | (columns >= width)] = OUTSIDE
        return found


def numbers_of(grey: NDArray[Any] | None, classes: ClassTable) -> Labels:
    """The values of a mask as numbers of classes.

    Raises:
        ValueError: it has colours, or a number that is of no class.
    """
    if grey is None or grey.dtype.kind not in "bui":
        raise ValueError(
            "expected numbers of classes as an 8-bit grey PNG or TIFF, got colours or fractions; write 0 outside, 1 "
            f"for {classes.names[0]} and so on, {UNKNOWN} where nothing is known"
        )
    odd = [value for value in np.unique(grey).tolist() if value > len(classes.names) and value != UNKNOWN]
    if odd:
        raise ValueError(
            f"the number {odd[0]} is of no class; there are {len(classes.names)} ({', '.join(classes.names[:5])}"
            f"{', …' if len(classes.names) > 5 else ''}), with {UNKNOWN} for what is unknown"
        )
    return grey.astype(np.uint8)


def read_truth(path: Path, slide: Slide, classes: ClassTable, *, mpp: float, finest_mpp: float) -> Truth:
    """Read outlines or a label mask, by the ending of the file.

    Raises:
        AnnotationError: outlines that cannot be read.
        MaskError: a label mask that cannot be read or does not fit.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return LabelMask.read(path, slide, classes, mpp=mpp, finest_mpp=finest_mpp)
    return Outlines(classes.read(path), classes)
