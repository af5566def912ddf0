"""The four maps of a VMamba, of strides 4 to 32: strip by strip on a CPU, by torch elsewhere and for gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.config.fields import AnyPrecision
from wsi_vmamba.device import Precision
from wsi_vmamba.encode import check_whole_maps, multiplies_bf16
from wsi_vmamba.inference.encoder import StripForward
from wsi_vmamba.inference.memory import free_bytes
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu


class MapSource(Protocol):
    """Where the maps of a region come from."""

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Maps (1, C, h, w) of strides 4, 8, 16 and 32 of RGB pixels (H, W, 3); no gradients."""
        ...


class TorchMaps:
    """Maps by the torch module, on any device: whole ones, all in memory."""

    def __init__(
        self,
        backbone: VMamba,
        *,
        device: str,
        precision: str = "fp32",
        memory_limit: int | None = None,
        beside_bytes: Callable[[int, int], int] = lambda height_px, width_px: 0,
    ) -> None:
        """Take the backbone as it is on its device.

        Args:
            backbone: the network.
            device: that it is on.
            precision: "fp32" or "bf16".
            memory_limit: most bytes that the process may hold, on a GPU most device bytes; None = what is free, and
                on a GPU nothing is refused beforehand.
            beside_bytes: see `StripMaps`.
        """
        self._backbone = backbone
        self._device = device
        self._low = precision == "bf16"
        self._memory_limit = memory_limit
        self._beside_bytes = beside_bytes

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """See `MapSource`.

        Raises:
            MemoryLimitError: the region would not fit, by a rough estimate; the message says what would.
        """
        allowed = self._allowed_bytes()
        if allowed is not None:
            check_whole_maps(
                self._backbone, *pixels.shape[:2], allowed=allowed, beside_bytes=self._beside_bytes
            )
        with (
            torch.no_grad(),
            torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._low),
        ):
            return self._backbone.forward_stages(images_of(self._backbone, pixels[None], device=self._device))

    def _allowed_bytes(self) -> int | None:
        if self._device == "cpu":
            return free_bytes(self._memory_limit)
        if self._memory_limit is None:
            return None
        return self._memory_limit - torch.cuda.memory_allocated(self._device)


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
    if kind_of_maps(device) == "strips":
        return StripMaps(backbone, precision=precision, memory_limit=memory_limit, beside_bytes=beside_bytes)
    return TorchMaps(
        backbone, device=device, precision=precision, memory_limit=memory_limit, beside_bytes=beside_bytes
    )


def kind_of_maps(device: str) -> Literal["strips", "whole"]:
    """Whether maps come strip by strip on a device, or whole."""
    return "strips" if device == "cpu" and cpu.available else "whole"


def resolve_precision(asked: AnyPrecision, *, device: str) -> Precision:
    """Turn ``auto`` into bf16 where that is fast: on a GPU, and strip by strip where the processor has it."""
    if asked != "auto":
        return asked
    fast = multiplies_bf16() if kind_of_maps(device) == "strips" else device != "cpu"
    return "bf16" if fast else "fp32"


def images_of(backbone: VMamba, pixels: NDArray[np.uint8], *, device: str) -> Tensor:
    """RGB pixels (n, H, W, 3) as a backbone takes them."""
    on_device = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return normalise(on_device, mean=backbone.mean, std=backbone.std)
