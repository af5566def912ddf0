"""Focal stacks: their planes as one volume through a VMamba, for `extract --focal-planes all`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.device import resolve_device
from wsi_vmamba.encode import Finished, Pending, WholeMapEncoder
from wsi_vmamba.errors import UsageError
from wsi_vmamba.inference.memory import free_bytes, largest_side_px, too_large
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.ops import cpu
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.focal import FocalStack
from wsi_vmamba.stream import DecodedRegion, StreamStats, stream_regions
from wsi_vmamba.volume.build import build_volume
from wsi_vmamba.volume.network import VMamba3D

#: float32 maps of the first stage that a forward pass holds at its peak, for each plane: 25 measured with the C++ scan.
_MAPS, _MAPS_OF_REFERENCE = 32, 64


class FocalEncoder(WholeMapEncoder):
    """A VMamba for volumes, every map whole in memory: the features of a place are the mean over the planes."""

    def __init__(self, name: str, model: VMamba3D, *, config: ExtractConfig, device: str) -> None:
        """See `WholeMapEncoder`."""
        precision = config.precision if config.precision != "auto" else "fp32" if device == "cpu" else "bf16"
        limit = None if config.memory_limit_gb is None else int(config.memory_limit_gb * 1e9)
        super().__init__(name, model, precision=precision, device=device, memory_limit=limit)
        self.facts = {"focal_planes": "all"}

    def submit(self, pixels: NDArray[np.uint8]) -> Pending:
        """See `Encoder.submit`."""
        return Finished(self.encode(pixels))

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB planes (Z, H, W, 3) in one forward pass -> (ceil(H/stride_px), ceil(W/stride_px), dim).

        Raises:
            MemoryLimitError: the region would not fit in main memory, by a rough estimate.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.size == 0:
            raise UsageError(f"expected uint8 RGB planes (Z, H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self.device == "cpu":
            self._check_planes(*pixels.shape[:3])
        model = cast(VMamba3D, self._backbone)
        low = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=low),
        ):
            planes = normalise(torch.from_numpy(pixels).to(self.device), mean=model.mean, std=model.std)
            features = model.forward_features(rearrange(planes, "z c h w -> 1 c z h w"))
            on_map = rearrange(features[0].float().mean(dim=1), "c h w -> h w c")
            result: NDArray[np.float32] = on_map.contiguous().cpu().numpy()
        return result

    def _check_planes(self, planes: int, height_px: int, width_px: int) -> None:
        config = cast(VMamba3D, self._backbone).config
        maps = _MAPS if cpu.available else _MAPS_OF_REFERENCE
        per_token = planes * config.d_inner(0) * config.d_state * 4 * maps
        allowed = free_bytes(self._memory_limit)
        needed = height_px * width_px // 16 * per_token
        if needed > allowed:
            side = largest_side_px(lambda side: side * side // 16 * per_token <= allowed)
            raise too_large(height_px, width_px, needed=needed, allowed=allowed, side_px=side)


def load_focal_encoder(config: ExtractConfig) -> FocalEncoder:
    """Build the encoder of focal stacks that a configuration asks for.

    Raises:
        UsageError: the backbone is no VMamba, or the device is not there.
        WeightsError: the weights do not fit.
    """
    weights = resolve_weights(config.backbone, config.weights)
    model = build_volume(config.backbone, weights=weights.path, seed=config.seed)
    return FocalEncoder(config.backbone, model, config=config, device=resolve_device(config.device))


def stream_asked(
    slide: Slide, plan: RegionPlan, *, regions: Sequence[Region], prefetch: int, stats: StreamStats
) -> Iterator[DecodedRegion]:
    """Decode regions as `stream_regions`; of a focal stack the pixels are (Z, H, W, 3)."""
    if not isinstance(slide, FocalStack):
        yield from stream_regions(slide, plan, regions=regions, prefetch=prefetch, stats=stats)
        return
    # Planes are decoded side by side, each by a thread of its own: their times do not add up, those of waiting do.
    counts = [StreamStats() for _ in slide.planes]
    streams = [
        stream_regions(plane, plan, regions=regions, prefetch=prefetch, stats=count)
        for plane, count in zip(slide.planes, counts, strict=True)
    ]
    try:
        for decoded in zip(*streams, strict=True):
            yield replace(decoded[0], pixels=np.stack([plane.pixels for plane in decoded]))
    finally:
        stats.regions += counts[0].regions
        stats.target_px += counts[0].target_px
        stats.wait_s += sum(count.wait_s for count in counts)
        stats.decode_s += max(count.decode_s for count in counts)
        stats.stream_s += max(count.stream_s for count in counts)
