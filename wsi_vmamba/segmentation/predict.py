"""Regions through a segmenter: the backbone once over all of it, the head in bands of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_vmamba.config.fields import AnyPrecision
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.segmentation.canvas import SQUARE_CELLS, Canvas
from wsi_vmamba.segmentation.head import resized
from wsi_vmamba.segmentation.maps import map_source, resolve_precision
from wsi_vmamba.segmentation.model import Segmenter
from wsi_vmamba.slide import Slide
from wsi_vmamba.stream import stream_regions

#: Numbers that the head holds for a band, about: its widest layer has four maps side by side.
_BAND_NUMBERS = 1 << 25
#: Maps of stride 8 and as wide as the head that it holds at once, and so many numbers as a band's, all in float32.
_COARSE_MAPS, _BAND_MAPS = 6, 3


class RegionSegmenter:
    """A segmenter at work: packed once, used for many regions."""

    def __init__(
        self,
        model: Segmenter,
        *,
        device: str,
        precision: AnyPrecision = "auto",
        memory_limit: int | None = None,
    ) -> None:
        """Pack the backbone.

        Args:
            model: in evaluation mode; moved to ``device``.
            device: where to compute.
            precision: of the backbone; "auto" is bf16 where that is fast.
            memory_limit: most bytes that the process may hold, on a GPU most device bytes; None = what is free.
        """
        model.to(device).eval()
        self.model = model
        self.table = model.spec.table
        self._maps = map_source(
            model.backbone,
            device=device,
            precision=resolve_precision(precision, device=device),
            memory_limit=memory_limit,
            beside_bytes=self._head_bytes,
        )

    @torch.inference_mode()
    def bands(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Probabilities of the classes at stride 4, (outputs, rows, columns), with the first row of each band.

        Args:
            pixels: RGB (H, W, 3) of a region.

        Raises:
            MemoryLimitError: the region would not fit; the message says what would.
        """
        head = self.model.head
        finest, *coarser = self._maps(pixels)
        pyramid = head.pyramid([map_.float() for map_ in coarser])
        del coarser
        height, width = finest.shape[2:]
        wide = len(head.settings.dims) * head.settings.channels + head.settings.outputs
        step = max(1, _BAND_NUMBERS // (wide * width) // SQUARE_CELLS) * SQUARE_CELLS
        for first in range(0, height, step):
            logits = head.rows(finest, pyramid, first=first, last=min(first + step, height))
            yield first, logits[0].softmax(dim=0).cpu().numpy()

    def _head_bytes(self, height_px: int, width_px: int) -> int:
        """What the head takes for a region beside the maps, about: its own maps of stride 8 and on, and a band."""
        coarse = self.model.head.settings.channels * (height_px // 8) * (width_px // 8)
        return 4 * (_COARSE_MAPS * coarse + _BAND_MAPS * _BAND_NUMBERS)

    def slide(self, slide: Slide, plan: RegionPlan) -> Iterator[Canvas]:
        """Segment the regions of a plan, in order; gives the canvas, which goes on being filled, after each.

        Raises:
            UnreadableSlideError: a region cannot be read.
            MemoryLimitError: a region would not fit.
        """
        lesion = self.table.lesion
        canvas = Canvas.of(plan, lesion=lesion is not None)
        for decoded in stream_regions(slide, plan):
            kept = plan.tissue(decoded.region)
            for row, shares in self.bands(decoded.pixels):
                canvas.take(decoded.region, kept, shares, row=row, first=self.table.first, lesion=lesion)
            yield canvas

    @torch.inference_mode()
    def picture(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Numbers of classes of each pixel of an RGB picture (H, W, 3), uint8 (H, W)."""
        height, width = pixels.shape[:2]
        logits = self.model.head([map_.float() for map_ in self._maps(pixels)])
        numbers = resized(logits, height, width)[0].argmax(dim=0) + self.table.first
        found: NDArray[np.uint8] = numbers.to(torch.uint8).cpu().numpy()
        return found
