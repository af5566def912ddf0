"""GeoJSON as QuPath reads it: every cell a tile with its measurements.

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

from wsi_vmamba.export.cells import ExportCells, whole
from wsi_vmamba.export.files import ExportFile


def export_geojson(cells: ExportCells) -> tuple[ExportFile, ...]:
    """``<id>.geojson``: a FeatureCollection of tiles in level-0 pixels, and of the slide where it has a score.

    A tile's id depends on the slide, the cell size and its place only, so that a second export of other scores is
    taken by QuPath for the same objects.
    """

    def write(out: BinaryIO) -> None:
        collection = {"type": "FeatureCollection", "features": _features(cells)}
        out.write(json.dumps(collection, allow_nan=False, separators=(",", ":")).encode())

    return (ExportFile(path=f"{cells.slide_id}.geojson", write=write),)


def _features(cells: ExportCells) -> list[dict[str, Any]]:
    boxes = _boxes(cells)
    tiles = [
        _feature(
            cells,
            f"{measured['column']},{measured['row']}",
            geometry={"type": "Polygon", "coordinates": [_ring(box)]},
            properties={"objectType": "tile", "isLocked": True, "measurements": measured},
        )
        for box, measured in zip(boxes.tolist(), _measurements(cells), strict=True)
    ]
    if not cells.slide_measurements:
        return tiles
    outline = _feature(
        cells,
        "slide",
        geometry=shapely.geometry.mapping(shapely.union_all(shapely.box(*boxes.T))),
        properties={
            "objectType": "annotation",
            "name": cells.slide_id,
            "isLocked": True,
            "measurements": dict(cells.slide_measurements),
        },
    )
    return [*tiles, outline]


def _measurements(cells: ExportCells) -> Iterator[dict[str, int | float]]:
    """Place and measurements of each cell."""
    columns = {"column": cells.grid[:, 0], "row": cells.grid[:, 1], **cells.measurements}
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def _boxes(cells: ExportCells) -> NDArray[np.float64]:
    """(left, top, right, bottom) of each cell, cut at the slide's edge; neighbours share their edges exactly."""
    corners = np.concatenate([cells.grid, cells.grid + 1], axis=1) * cells.cell_l0
    limits = np.array([cells.width_l0, cells.height_l0] * 2, dtype=np.float64)
    boxes: NDArray[np.float64] = np.minimum(corners, limits).round(3)
    return boxes


def _ring(box: list[float]) -> list[list[int | float]]:
    """The closed ring of a box."""
    left, top, right, bottom = map(whole, box)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _feature(cells: ExportCells, part: str, *, geometry: Any, properties: dict[str, Any]) -> dict[str, Any]:
    name = f"wsi-vmamba/{cells.slide_id}/{cells.cell_l0!r}/{part}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        "geometry": geometry,
        "properties": properties,
    }
