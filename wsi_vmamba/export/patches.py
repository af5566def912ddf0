"""What an exporter is given: the features of one slide, where they lie, and what a model says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.store import FeatureMeta, open_features

#: Magnification x um per pixel, as scanners name it: 40x is 0.25 um per pixel.
_UM_AT_1X = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportPatches:
    """One slide, ready to be rewritten.

    Attributes:
        meta: attributes of the feature file.
        features: shape (N, D), float16, as stored.
        coords_l0: shape (N, 2), int64, top-left corner (x, y) of each patch in level-0 pixels.
        width_l0: width of the slide in level-0 pixels.
        height_l0: height of the slide in level-0 pixels.
        measurements: what a model says of each patch, name -> float64 (N,).
        slide_measurements: what it says of the slide, name -> value.
    """

    meta: FeatureMeta
    features: NDArray[np.float16]
    coords_l0: NDArray[np.int64]
    width_l0: int
    height_l0: int
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    slide_measurements: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_patches = len(self.features)
        if self.coords_l0.shape != (n_patches, 2):
            raise UsageError(f"expected coords_l0 of shape ({n_patches}, 2), got {self.coords_l0.shape}")
        for name, values in self.measurements.items():
            if values.shape != (n_patches,) or not np.isfinite(values).all():
                raise UsageError(
                    f"{self.slide_id}: measurement {name!r} must be {n_patches} finite numbers, one a patch"
                )
        for name, value in self.slide_measurements.items():
            if not math.isfinite(value):
                raise UsageError(f"{self.slide_id}: measurement {name!r} of the slide is {value}")

    @property
    def slide_id(self) -> str:
        """Names the slide and its files."""
        return self.meta.slide_id

    @property
    def patch_l0(self) -> float:
        """Side of a patch in level-0 pixels; need not be whole."""
        return self.meta.patch_l0

    @property
    def tile_um(self) -> float:
        """Side of a patch in micrometres."""
        return self.meta.patch_px * self.meta.target_mpp

    @cached_property
    def grid(self) -> NDArray[np.int64]:
        """(column, row) of each patch on the slide's patch grid, shape (N, 2)."""
        places: NDArray[np.int64] = np.rint(self.coords_l0 / self.patch_l0).astype(np.int64)
        return places

    @property
    def target_magnification(self) -> int | float:
        """Magnification the encoder saw, 10 / um per pixel: 20 at 0.5 um."""
        return whole(_UM_AT_1X / self.meta.target_mpp)

    @property
    def level0_magnification(self) -> int | float:
        """Magnification of level 0, in the same ratio to the target as the pixels are; never rounded to 20 or 40."""
        return whole(_UM_AT_1X / self.meta.target_mpp * self.patch_l0 / self.meta.patch_px)

    def facts(self) -> dict[str, str | int | float]:
        """What made the features, as plain values, for formats that have room for it."""
        names = ("slide_id", "mpp", "mpp_source", "target_mpp", "patch_px", "patch_l0", "reader", "segmenter")
        meta = self.meta
        found: dict[str, str | int | float] = {name: getattr(meta, name) for name in names}
        return found | {"model": meta.model, "weights_hash": meta.weights_hash, "precision": meta.precision}


def whole(value: float) -> int | float:
    """A number that is whole but for rounding, as int; tools name folders and grids after it."""
    nearest = round(value)
    return nearest if abs(value - nearest) < 1e-6 else value


def read_patches(
    path: Path,
    *,
    measurements: Mapping[str, NDArray[np.float64]] | None = None,
    slide_measurements: Mapping[str, float] | None = None,
) -> ExportPatches:
    """Read a feature file for export.

    Raises:
        StoreError: missing or damaged, or its plan does not say how large the slide is.
        UsageError: a measurement does not fit the patches.
    """
    file = open_features(path)
    width_l0, height_l0 = (_side(file.meta.plan, name, path) for name in ("width_l0", "height_l0"))
    return ExportPatches(
        meta=file.meta,
        features=file.features,
        coords_l0=file.coords_l0,
        width_l0=width_l0,
        height_l0=height_l0,
        measurements=dict(measurements or {}),
        slide_measurements=dict(slide_measurements or {}),
    )


def _side(plan: Mapping[str, Any], name: str, path: Path) -> int:
    value = plan.get(name)
    if not isinstance(value, int) or value <= 0:
        raise StoreError(
            f"{path}: its plan has no {name} ({value!r}); extract the slide again with --overwrite"
        )
    return value
