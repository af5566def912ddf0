"""Bands of decoded pixels as the encoders that keep their maps in files take them."""

from __future__ import annotations

from torch import Tensor

from wsi_vmamba.inference.convolve import pixel_tensor
from wsi_vmamba.stream import BandStream


class TensorBands:
    """`forward_in_files.PixelRows` of a `BandStream`."""

    def __init__(self, bands: BandStream) -> None:
        """Take a stream of bands."""
        self.advance = bands.advance
        self.height, self.width = bands.height, bands.width
        self._bands = bands

    def rows(self, first: int, last: int) -> Tensor:
        """See `PixelRows.rows`."""
        return pixel_tensor(self._bands.rows(first, last))
