"""Which patches of a plan a damaged tile touches, for `extract --on-bad-tile skip`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.regions import Region, RegionPlan, patch_runs
from wsi_vmamba.rescale import source_range
from wsi_vmamba.slide import Slide
from wsi_vmamba.slide.base import DamagedArea
from wsi_vmamba.tissue import TissueMask


def touched_patches(plan: RegionPlan, region: Region, damage: Sequence[DamagedArea]) -> NDArray[np.bool_]:
    """Which patches of a region have a pixel that a damaged area takes part in, bool, shape (n,).

    Args:
        plan: the plan of the region.
        region: it; everything it is made of has been read.
        damage: what was found damaged on the plan's level.
    """
    touched = np.zeros(len(region.patches), dtype=np.bool_)
    if not damage:
        return touched
    columns = _sources(plan, region.patches[:, 0])
    rows = _sources(plan, region.patches[:, 1])
    for area in damage:
        touched |= (
            (columns[:, 0] < area.x_px + area.width_px)
            & (columns[:, 1] > area.x_px)
            & (rows[:, 0] < area.y_px + area.height_px)
            & (rows[:, 1] > area.y_px)
        )
    return touched


def _sources(plan: RegionPlan, patches: NDArray[np.int64]) -> NDArray[np.int64]:
    """First and one past the last pixel of the plan's level that each patch is made of, along one axis, (n, 2)."""
    unique, places = np.unique(patches, return_inverse=True)
    patch_px = plan.spec.patch_px
    ranges = [source_range(int(patch) * patch_px, patch_px, scale=plan.scale) for patch in unique]
    found: NDArray[np.int64] = np.array(ranges, dtype=np.int64)[places]
    return found


def count_damage_as_tissue(tissue: TissueMask, slide: Slide) -> TissueMask:
    """Take what could not be seen for tissue: a damaged overview hides no patches, and finer levels may be sound."""
    mask = tissue.mask.copy()
    for index, level in enumerate(slide.levels):
        per_px = level.downsample / tissue.downsample
        for area in slide.damage(index):
            left, right = area.x_px * per_px, (area.x_px + area.width_px) * per_px
            top, bottom = area.y_px * per_px, (area.y_px + area.height_px) * per_px
            mask[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = True
    return replace(tissue, mask=mask)


def damage_as_json(slide: Slide) -> list[list[Any]]:
    """What of a slide was found damaged so far, as JSON values."""
    return [list(astuple(area)) for level in range(len(slide.levels)) for area in slide.damage(level)]


def damage_of_json(values: Sequence[Sequence[Any]]) -> list[DamagedArea]:
    """Undo `damage_as_json`."""
    names = [field.name for field in fields(DamagedArea)]
    return [DamagedArea(**dict(zip(names, each, strict=True))) for each in values]


def describe_left_out(patches: Sequence[NDArray[np.int64]], slide: Slide) -> dict[str, Any]:
    """What a feature file records about patches without features, see `FeatureMeta.left_out`."""
    tiles = [
        [area.level, area.x_px, area.y_px, area.width_px, area.height_px]
        for index in range(len(slide.levels))
        for area in slide.damage(index)
    ]
    return {"patches": patch_runs(np.concatenate(patches)), "tiles": tiles}


def count_damage(left_out: Mapping[str, Any]) -> str:
    """Say in a few words what was left out, see `FeatureMeta.left_out`."""
    tiles = left_out["tiles"]
    places = ", ".join(f"level {level} at ({x}, {y})" for level, x, y, _, _ in tiles[:3])
    more = f" and {len(tiles) - 3} more" if len(tiles) > 3 else ""
    return f"{len(tiles)} damaged tile(s): {places}{more}"
