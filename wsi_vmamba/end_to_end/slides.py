"""The pixels behind the features of a slide, and features of them that learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.bags import FeatureSource
from wsi_vmamba.errors import MissingDataError, UsageError
from wsi_vmamba.gradients.region import region_features
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.slide.location import is_url
from wsi_vmamba.store import FeatureMeta, open_features
from wsi_vmamba.stream import stream_regions


@dataclass(frozen=True, kw_only=True)
class PlannedPixels:
    """What of a slide is encoded: as its feature file says.

    Attributes:
        meta: of the feature file.
        plan: its regions.
    """

    meta: FeatureMeta
    plan: RegionPlan

    @property
    def places(self) -> Tensor:
        """(column, row) of each patch on the grid of the slide, (N, 2) int64, region by region."""
        return torch.from_numpy(np.concatenate([region.patches for region in self.plan.regions]))

    @contextmanager
    def open(self) -> Iterator[Slide]:
        """The slide."""
        meta = self.meta
        with open_slide(meta.slide_path, reader=meta.reader, scene=meta.scene) as slide:
            yield slide


def planned_pixels(slide_id: str, features: Path) -> PlannedPixels:
    """What a feature file says of the pixels that it was made of.

    Raises:
        StoreError: there is no such file, or it is damaged.
        MissingDataError: the slide is not where it was read.
        UsageError: its features are not those of all pixels of its regions.
    """
    meta = open_features(features / f"{slide_id}.zarr").meta
    if not is_url(meta.slide_path) and not Path(meta.slide_path).exists():
        raise MissingDataError(
            f"{slide_id}: its pixels are needed, and the slide is not at {meta.slide_path} any more; put it back, or "
            "extract it again from where it is"
        )
    if meta.n_left_out:
        raise UsageError(
            f"{slide_id}: {meta.n_left_out} of its patches were left out for damaged tiles, and its regions cannot be "
            "read whole; mend the slide and extract it again, or leave it out"
        )
    plan = RegionPlan.from_dict(meta.plan)
    if plan.spec.background != "read":
        raise UsageError(
            f"{slide_id}: its features leave the glass out (--background skip), which training through pixels does "
            "not; extract with --background read"
        )
    return PlannedPixels(meta=meta, plan=plan)


def source_of(pixels: PlannedPixels) -> FeatureSource:
    """What made the features of the slide."""
    return FeatureSource.of(pixels.meta)


class LearnedFeatures:
    """The features of a slide's patches, whose gradients reach the backbone with one region in memory at a time.

    The gradients of a slide need the features of all its regions. So all regions but the last are encoded without
    gradients first; when the loss is known, each of them is encoded once more.
    """

    def __init__(self, backbone: VMamba, slide: Slide, plan: RegionPlan) -> None:
        """Encode the slide; under `torch.no_grad` there will be no gradients."""
        self._backbone, self._slide, self._plan = backbone, slide, plan
        self._leaves: list[Tensor] = []
        last = plan.regions[-1]
        parts: list[Tensor] = []
        for decoded in stream_regions(slide, plan):
            with torch.set_grad_enabled(torch.is_grad_enabled() and decoded.region is last):
                part = self._encode(decoded.region, decoded.pixels)
            if decoded.region is not last and torch.is_grad_enabled():
                self._leaves.append(part.requires_grad_())
            parts.append(part)
        #: (N, dim), region by region.
        self.features = torch.cat(parts)

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of ``loss``, which was made of `features`, in the backbone and whatever else made it."""
        loss.backward()  # type: ignore[no-untyped-call]
        regions = self._plan.regions[:-1]
        streamed = stream_regions(self._slide, self._plan, regions=regions) if regions else ()
        for decoded, leaf in zip(streamed, self._leaves, strict=True):
            self._encode(decoded.region, decoded.pixels).backward(leaf.grad)  # type: ignore[no-untyped-call]

    def _encode(self, region: Region, pixels: NDArray[np.uint8]) -> Tensor:
        tokens = region_features(self._backbone, pixels)
        return pool_tokens(tokens, region, side=self._plan.spec.patch_px // self._backbone.stride_px)


def pool_tokens(tokens: Tensor, region: Region, *, side: int) -> Tensor:
    """The mean of the tokens of each kept patch of a region, (n, dim): `encode.pool_patches` with gradients.

    Args:
        tokens: (h, w, dim) of the region.
        region: its patches are (column, row) on the global grid.
        side: tokens along a patch.
    """
    patches = reduce(tokens, "(row y) (column x) d -> row column d", "mean", y=side, x=side)
    patch_px = region.width_px // patches.shape[1]
    origin = (region.x_px // patch_px, region.y_px // patch_px)
    columns, rows = torch.from_numpy(region.patches - origin).unbind(1)
    kept: Tensor = patches[rows, columns]
    return kept
