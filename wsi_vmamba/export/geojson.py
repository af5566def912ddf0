"""GeoJSON as QuPath reads it: every patch a tile with its measurements.

QuPath 0.4 and later want measurements as one object, UUIDs as ids, and no NaN (github.com/qupath/qupath, pull
request 1099 and issue 1293).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.patches import ExportPatches, whole


def export_geojson(patches: ExportPatches) -> tuple[ExportFile, ...]:
    """``<id>.geojson``: a FeatureCollection of tiles in level-0 pixels, and of the slide where it has a score.

    A tile's id depends on the slide, the patch size and its place only, so that a second export of other scores is
    taken by QuPath for the same objects.
    """

    def write(out: BinaryIO) -> None:
        collection = {"type": "FeatureCollection", "features": _features(patches)}
        out.write(json.dumps(collection, allow_nan=False, separators=(",", ":")).encode())

    return (ExportFile(path=f"{patches.slide_id}.geojson", write=write),)


def _features(patches: ExportPatches) -> list[dict[str, Any]]:
    boxes = _boxes(patches)
    tiles = [
        _feature(
            patches,
            f"{measured['column']},{measured['row']}",
            geometry={"type": "Polygon", "coordinates": [_ring(box)]},
            properties={"objectType": "tile", "isLocked": True, "measurements": measured},
        )
        for box, measured in zip(boxes.tolist(), _measurements(patches), strict=True)
    ]
    if not patches.slide_measurements:
        return tiles
    outline = _feature(
        patches,
        "slide",
        geometry=shapely.geometry.mapping(shapely.union_all(shapely.box(*boxes.T))),
        properties={
            "objectType": "annotation",
            "name": patches.slide_id,
            "isLocked": True,
            "measurements": dict(patches.slide_measurements),
        },
    )
    return [*tiles, outline]


def _measurements(patches: ExportPatches) -> Iterator[dict[str, int | float]]:
    """Place and measurements of each patch."""
    columns = {"column": patches.grid[:, 0], "row": patches.grid[:, 1], **patches.measurements}
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def _boxes(patches: ExportPatches) -> NDArray[np.float64]:
    """(left, top, right, bottom) of each patch, cut at the slide's edge; neighbours share their edges exactly."""
    corners = np.concatenate([patches.grid, patches.grid + 1], axis=1) * patches.patch_l0
    limits = np.array([patches.width_l0, patches.height_l0] * 2, dtype=np.float64)
    boxes: NDArray[np.float64] = np.minimum(corners, limits).round(3)
    return boxes


def _ring(box: list[float]) -> list[list[int | float]]:
    """The closed ring of a box."""
    left, top, right, bottom = map(whole, box)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _feature(
    patches: ExportPatches, part: str, *, geometry: Any, properties: dict[str, Any]
) -> dict[str, Any]:
    name = f"wsi-vmamba/{patches.slide_id}/{patches.patch_l0!r}/{part}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "geometry": geometry,
        "properties": properties,
    }
