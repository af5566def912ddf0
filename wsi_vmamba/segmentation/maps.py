"""The four maps of a VMamba, of strides 4 to 32: strip by strip on a CPU, by torch elsewhere and for gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu


class MapSource(Protocol):
    """Where the maps of a region come from."""

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Maps (1, C, h, w) of strides 4, 8, 16 and 32 of RGB pixels (H, W, 3); no gradients."""
        ...


class TorchMaps:
    """Maps by the torch module, on any device."""

    def __init__(self, backbone: VMamba, *, device: str) -> None:
        """Take the backbone as it is on its device."""
        self._backbone = backbone
        self._device = device

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """See `MapSource`."""
        with torch.no_grad():
            return self._backbone.forward_stages(images_of(self._backbone, pixels[None], device=self._device))


class StripMaps:
    """Maps by the strip encoder: a region of 10,000 px in little memory."""

    def __init__(
        self,
        backbone: VMamba,
        *,
        precision: str,
        memory_limit: int | None = None,
        beside_bytes: Callable[[int, int], int] = lambda height_px, width_px: 0,
    ) -> None:
        """Pack the weights, which are copied.

        Args:
            backbone: the network.
            precision: "fp32" or "bf16".
            memory_limit: most bytes that the process may hold; None = what is free.
            beside_bytes: what is to be free for what is made of the maps of a region, by its height and width.
        """
        self._forward = StripForward(backbone, precision=precision, memory_limit=memory_limit)
        self._beside_bytes = beside_bytes

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """See `MapSource`."""
        # The tokens of a map lie one after the other, as torch calls it, channels last.
        maps = self._forward.stage_maps(pixels, beside_bytes=self._beside_bytes(*pixels.shape[:2]))
        return [map_.permute(2, 0, 1)[None] for map_ in maps]


def map_source(
    backbone: VMamba,
    *,
    device: str,
    precision: str = "fp32",
    memory_limit: int | None = None,
    beside_bytes: Callable[[int, int], int] = lambda height_px, width_px: 0,
) -> MapSource:
    """What gives the maps of a backbone that stays as it is."""
    if device == "cpu" and cpu.available:
        return StripMaps(backbone, precision=precision, memory_limit=memory_limit, beside_bytes=beside_bytes)
    return TorchMaps(backbone, device=device)


def images_of(backbone: VMamba, pixels: NDArray[np.uint8], *, device: str) -> Tensor:
    """RGB pixels (n, H, W, 3) as a backbone takes them."""
    on_device = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return normalise(on_device, mean=backbone.mean, std=backbone.std)
