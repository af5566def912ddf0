"""Where the tissue of a slide is, small enough to keep for hundreds of slides, and drawn from without bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.tissue import TissueMask

#: Bits that are set in each byte.
_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.int64)


class TissuePlaces:
    """A tissue mask in one bit a pixel.

    Attributes:
        downsample: level-0 pixels per pixel of the mask.
        um_per_px: micrometres per pixel of the mask.
        count: pixels that are tissue.
    """

    def __init__(
        self, packed: NDArray[np.uint8], *, width_px: int, downsample: float, um_per_px: float
    ) -> None:
        """Take rows of bits as `numpy.packbits` makes them along the rows of a mask, (height, ceil(width / 8))."""
        self.packed, self.width_px = packed, width_px
        self.downsample, self.um_per_px = downsample, um_per_px
        self._until_row = np.cumsum(_BITS[packed].sum(axis=1))
        self.count = int(self._until_row[-1])

    @classmethod
    def of(cls, mask: TissueMask) -> TissuePlaces:
        """Pack a mask."""
        packed = np.packbits(mask.mask, axis=1)
        return cls(packed, width_px=mask.mask.shape[1], downsample=mask.downsample, um_per_px=mask.mpp)

    @property
    def area_um2(self) -> float:
        """Tissue in square micrometres."""
        return self.count * self.um_per_px**2

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """A point (x_l0, y_l0) of the tissue, in level-0 pixels, each equally likely; takes three numbers."""
        u = rng.random(3)
        number = min(int(u[0] * self.count), self.count - 1)
        row = int(np.searchsorted(self._until_row, number, side="right"))
        columns = np.flatnonzero(self._rows(row, row + 1)[0])
        before = int(self._until_row[row - 1]) if row else 0
        column = int(columns[number - before])
        return (column + float(u[1])) * self.downsample, (row + float(u[2])) * self.downsample

    def share(self, *, x_l0: float, y_l0: float, side_l0: float) -> float:
        """How much of a square is tissue, 0 to 1, to whole pixels of the mask; outside the slide is none."""
        left, top = round(x_l0 / self.downsample), round(y_l0 / self.downsample)
        side = max(1, round(side_l0 / self.downsample))
        rows = self._rows(max(0, top), max(0, top + side))
        inside = rows[:, max(0, left) : max(0, left + side)]
        return int(np.count_nonzero(inside)) / side**2

    def _rows(self, first: int, end: int) -> NDArray[np.uint8]:
        return np.unpackbits(self.packed[first:end], axis=1, count=self.width_px)
