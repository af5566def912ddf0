"""What a segmenter returns: a small boolean picture of the slide, with its place in the level-0 frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError


@dataclass(frozen=True, eq=False, kw_only=True)
class TissueMask:
    """Tissue (True) and everything else, at low resolution.

    Attributes:
        mask: bool, shape (height, width) in mask pixels; mask pixel (row i, column j) covers the level-0
            square that begins at (x_l0, y_l0) = (j * downsample, i * downsample). The last row and column may
            reach past the slide, or end a little before its edge where the level read does.
        downsample: level-0 pixels per mask pixel, at least 1.
        mpp: micrometres per mask pixel.
        picture: uint8 RGB of the same shape that the mask was found in; None where none was read.
        notes: what was repaired, left out or taken for granted in making it, for the user to see.
    """

    mask: NDArray[np.bool_]
    downsample: float
    mpp: float
    picture: NDArray[np.uint8] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or self.mask.size == 0:
            raise UsageError(
                f"a tissue mask is a non-empty 2-D bool array, got {self.mask.dtype} {self.mask.shape}"
            )
        if self.picture is not None and self.picture.shape != (*self.mask.shape, 3):
            raise UsageError(f"expected a picture of {self.mask.shape} pixels, got {self.picture.shape}")
        if not self.downsample > 0 or not self.mpp > 0:
            raise UsageError(f"downsample and mpp must be positive, got {self.downsample} and {self.mpp}")

    @property
    def share(self) -> float:
        """Tissue as a share of the whole slide, 0 to 1."""
        return float(self.mask.mean())

    @property
    def area_um2(self) -> float:
        """Tissue area in square micrometres."""
        return float(np.count_nonzero(self.mask)) * self.mpp**2
