"""A slide as a segmenter sees it: one cell for each token of stride 4, filled region by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.detections import Detections
from wsi_vmamba.metrics.peaks import detect_peaks
from wsi_vmamba.regions import Region, RegionPlan

#: Pixels of the target along a cell.
CELL_PX = 4
#: Cells along a square whose mean probability may be a detection: 32 um at 0.5 um per pixel.
SQUARE_CELLS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """What a segmenter says of a slide.

    Attributes:
        numbers: uint8 (rows, columns): 0 outside of all classes or not looked at, 1 and on the classes.
        certainty: uint8 of the same shape: the probability of that class, of 255.
        lesion: float32 (rows / 16, columns / 16): mean probability of the lesion class; NaN where nothing was looked
            at; None where the segmenter has no such class.
        cell_l0: side of a cell in level-0 pixels.
        width_l0: width of the slide.
        height_l0: height of the slide.
        mpp: micrometres per level-0 pixel.
    """

    numbers: NDArray[np.uint8]
    certainty: NDArray[np.uint8]
    lesion: NDArray[np.float32] | None
    cell_l0: float
    width_l0: int
    height_l0: int
    mpp: float

    @classmethod
    def of(cls, plan: RegionPlan, *, lesion: bool) -> Canvas:
        """An empty canvas for the regions of a plan."""
        # Whole patches, as regions are, which may reach past the slide.
        patch = plan.spec.patch_px // CELL_PX
        rows, columns = (
            patch * -(-length // plan.spec.patch_px) for length in (plan.height_px, plan.width_px)
        )
        squares = (rows // SQUARE_CELLS, columns // SQUARE_CELLS)
        return cls(
            numbers=np.zeros((rows, columns), np.uint8),
            certainty=np.zeros((rows, columns), np.uint8),
            lesion=np.full(squares, np.nan, np.float32) if lesion else None,
            cell_l0=CELL_PX * plan.l0_per_px,
            width_l0=plan.width_l0,
            height_l0=plan.height_l0,
            mpp=plan.mpp,
        )

    @property
    def cell_um2(self) -> float:
        """Area of a cell in square micrometres."""
        return (self.cell_l0 * self.mpp) ** 2

    def take(
        self, region: Region, kept: NDArray[np.bool_], shares: NDArray[np.float32], *, row: int, first: int,
        lesion: int | None,
    ) -> None:  # fmt: skip
        """Take a band of rows of a region; patches without tissue stay as they are.

        Args:
            region: on the target canvas.
            kept: bool (patch rows, patch columns) of the region: which are tissue.
            shares: float32 (outputs, rows, columns): probability of each class.
            row: of the region that the band begins with, in cells; a multiple of 16, like its height.
            first: number of the class of the first output.
            lesion: number of the lesion class.
        """
        _, height, width = shares.shape
        patch = width // kept.shape[1]
        inside = np.repeat(np.repeat(kept, patch, axis=0)[row : row + height], patch, axis=1)
        top, left = region.y_px // CELL_PX + row, region.x_px // CELL_PX
        here = np.s_[top : top + height, left : left + width]
        numbers = shares.argmax(axis=0).astype(np.uint8)
        best = np.take_along_axis(shares, numbers[None].astype(np.int64), axis=0)[0]
        self.numbers[here][inside] = (numbers + first)[inside]
        self.certainty[here][inside] = np.rint(best * 255).astype(np.uint8)[inside]
        if self.lesion is not None and lesion is not None:
            rows, columns = height // SQUARE_CELLS, width // SQUARE_CELLS
            blocks = (rows, SQUARE_CELLS, columns, SQUARE_CELLS)
            means = shares[lesion - first].reshape(blocks).mean(axis=(1, 3))
            known = inside.reshape(blocks).all(axis=(1, 3))
            squares = np.s_[
                top // SQUARE_CELLS : top // SQUARE_CELLS + rows,
                left // SQUARE_CELLS : left // SQUARE_CELLS + columns,
            ]
            self.lesion[squares][known] = means[known]

    def drop_small(self, *, numbers: Sequence[int], min_area_um2: float) -> None:
        """Make pieces of classes background that are smaller than an area; pieces touch by their edges."""
        least = min_area_um2 / self.cell_um2
        for number in numbers:
            _, pieces, stats, _ = cv2.connectedComponentsWithStats(
                (self.numbers == number).astype(np.uint8), connectivity=4
            )
            small = stats[:, cv2.CC_STAT_AREA] < least
            small[0] = False
            self.numbers[small[pieces]] = 0

    def detections(self, *, merge_um: float) -> Detections:
        """Places that look most like a lesion, see `detect_peaks`.

        Args:
            merge_um: of places closer than this one is left.
        """
        assert self.lesion is not None
        rows, columns = np.nonzero(~np.isnan(self.lesion))
        side_l0 = SQUARE_CELLS * self.cell_l0
        centres = (np.stack([columns, rows], axis=1) + 0.5) * side_l0
        # A square may reach past the edge of the slide, its detection may not.
        centres = np.minimum(centres, [self.width_l0 - 1, self.height_l0 - 1])
        probability = self.lesion[rows, columns].astype(np.float64)
        return detect_peaks(probability, centres, merge_l0=merge_um / self.mpp)
