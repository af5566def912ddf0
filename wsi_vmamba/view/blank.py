"""White ground for layers whose slide is not at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.canvas import WHITE, CanvasSlide, pyramid

_SMALLEST_PX = 512


class BlankSlide(CanvasSlide):
    """A slide of which only the size is known."""

    def __init__(self, name: str, *, width_px: int, height_px: int) -> None:
        """Make levels by halves."""
        sizes = [(width_px, height_px)]
        while max(sizes[-1]) > _SMALLEST_PX:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        super().__init__(name, reader="blank", levels=pyramid(sizes), mpp=None, properties={})

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        out[:] = WHITE

    def close(self) -> None:
        """Nothing is open."""
