"""Layers of areas, as GeoJSON in level-0 pixels: tissue, regions, what experts drew, what a model found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.annotation.model import Role
from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.geometry import grid_rectangle_l0
from wsi_vmamba.masks.outline import tissue_polygons
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.store import FeatureMeta
from wsi_vmamba.tissue import TissueMask
from wsi_vmamba.view.patches import PatchColumn, PatchTable

#: Colours that colour-blind people tell apart (Okabe and Ito).
_COLOURS = {
    "tissue": (0, 158, 115), "region": (0, 114, 178), "tumor": (213, 94, 0), "predicted": (230, 159, 0),
}  # fmt: skip
_OTHER_COLOUR = (204, 121, 167)

Feature = dict[str, Any]


def drawn(path: Path) -> dict[str, Any]:
    """The areas of an annotation file, whatever their class, as `read_annotation` repairs them.

    Raises:
        AnnotationError: the file is missing or malformed.
    """
    found = read_annotation(path, others=Role.INCLUDED)
    return collection(
        [
            feature(f"{number}", each.geometry, name=each.name, group=each.group)
            for number, each in enumerate(found.outlines)
        ],
        notes=found.notes,
    )


def regions(meta: FeatureMeta) -> dict[str, Any]:
    """The rectangles that were read and encoded at once.

    Raises:
        StoreError: the feature file has no plan.
    """
    try:
        plan = RegionPlan.from_dict(meta.plan)
    except UsageError as error:
        raise StoreError(f"{meta.slide_id}: {error}; extract the slide again") from error
    found = []
    for region in plan.regions:
        patch = plan.spec.patch_px
        x, y, width, height = grid_rectangle_l0(
            column=region.x_px // patch, row=region.y_px // patch, columns=region.width_px // patch,
            rows=region.height_px // patch, patch_l0=plan.patch_l0,
        )  # fmt: skip
        box = shapely.box(x, y, x + width, y + height)
        found.append(feature(f"{region.index}", box, name=f"region {region.index}", group="Region"))
    return collection(found)


def predicted(table: PatchTable, column: PatchColumn, *, threshold: float) -> dict[str, Any]:
    """Outlines around the patches whose value is at least the threshold, neighbours joined."""
    first = table.grid.min(axis=0)
    columns, rows = table.grid.max(axis=0) - first + 1
    mask = np.zeros((rows, columns), dtype=np.bool_)
    chosen = table.grid[column.values >= threshold] - first
    mask[chosen[:, 1], chosen[:, 0]] = True
    x, y, *_ = grid_rectangle_l0(
        column=int(first[0]), row=int(first[1]), columns=1, rows=1, patch_l0=table.patch_l0
    )
    pieces = tissue_polygons(TissueMask(mask=mask, downsample=table.patch_l0, mpp=table.patch_l0))
    found = []
    for number, piece in enumerate(pieces):
        moved = shapely.transform(piece, lambda points: points + np.array((x, y)))
        found.append(feature(f"{number}", moved, name=f"predicted {number + 1}", group="Predicted"))
    return collection(found)


def feature(number: str, geometry: Any, *, name: str, group: str) -> Feature:
    """One area."""
    return {
        "type": "Feature",
        "id": number,
        "geometry": shapely.geometry.mapping(geometry),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": group, "color": list(_COLOURS.get(group.lower(), _OTHER_COLOUR))},
        },
    }


def collection(features: Iterable[Feature], *, notes: Sequence[str] = ()) -> dict[str, Any]:
    """All of them; plain lists, as JSON has them."""
    found: dict[str, Any] = json.loads(
        json.dumps(
            {"type": "FeatureCollection", "features": list(features), "notes": list(notes)}, allow_nan=False
        )
    )
    return found
