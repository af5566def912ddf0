"""A slide that is an array: for tests, and for pictures that something else has decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UnreadableSlideError, UsageError
from wsi_vmamba.slide.canvas import CanvasSlide, RecordedMpp, pyramid


class ArraySlide(CanvasSlide):
    """A slide in memory; coarser levels are block means of the array."""

    def __init__(
        self,
        array_hwc: NDArray[np.uint8],
        mpp: float | None,
        *,
        downsamples: Sequence[int] = (1,),
        path: str = "memory",
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Build the pyramid.

        Args:
            array_hwc: RGB pixels, uint8, shape (height, width, 3).
            mpp: micrometres per pixel of the array, None for a slide that records none.
            downsamples: whole factors of the levels, 1 first, rising.
            path: stands for the file name; its stem is the slide_id.
            properties: what else the "file" records.

        Raises:
            UsageError: the array is not (h, w, 3) uint8, or the downsamples do not begin with 1 and rise.
        """
        if (
            array_hwc.dtype != np.uint8
            or array_hwc.ndim != 3
            or array_hwc.shape[2] != 3
            or not array_hwc.size
        ):
            raise UsageError(f"expected uint8 (h, w, 3), got {array_hwc.dtype} {array_hwc.shape}")
        if not downsamples or downsamples[0] != 1 or list(downsamples) != sorted(set(downsamples)):
            raise UsageError(f"downsamples begin with 1 and rise, got {tuple(downsamples)}")
        self._arrays: list[NDArray[np.uint8]] = [_block_mean(array_hwc, factor) for factor in downsamples]
        super().__init__(
            path,
            reader="memory",
            levels=pyramid([(a.shape[1], a.shape[0]) for a in self._arrays]),
            mpp=None if mpp is None else RecordedMpp(x=mpp, y=mpp, source="memory"),
            properties=properties or {},
        )

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        if not self._arrays:
            raise UnreadableSlideError(self.path, "the slide is closed; open it again to read")
        out[:] = self._arrays[level][y_px : y_px + out.shape[0], x_px : x_px + out.shape[1]]

    def close(self) -> None:
        """Forget the arrays; further reads are errors."""
        self._arrays = []


def _block_mean(array_hwc: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Mean over factor × factor blocks, rounded; an incomplete block at the far edges is left out."""
    if factor == 1:
        return array_hwc
    height, width = array_hwc.shape[0] // factor, array_hwc.shape[1] // factor
    if not height or not width:
        raise UsageError(
            f"downsample {factor} leaves nothing of {array_hwc.shape[1]} x {array_hwc.shape[0]} px"
        )
    blocks = array_hwc[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    mean: NDArray[np.uint8] = np.rint(blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.uint8)
    return mean
