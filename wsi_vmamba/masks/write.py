"""Tissue as GeoJSON that QuPath opens, edits and saves, and that `--mask` reads again."""

from __future__ import annotations

import json
import uuid

import shapely

from wsi_vmamba.masks.outline import tissue_polygons
from wsi_vmamba.text import printable
from wsi_vmamba.tissue.mask import TissueMask

CLASS = "Tissue"
_COLOUR = [0, 160, 80]


def tissue_geojson(tissue: TissueMask, *, slide_id: str) -> str:
    """Return a GeoJSON FeatureCollection with one annotation of class Tissue per piece, in level-0 pixels.

    The ids depend on the slide and the number of the piece only.
    """
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"wsi-vmamba/{printable(slide_id)}/tissue/{index}")),
            "geometry": shapely.geometry.mapping(polygon),
            "properties": {
                "objectType": "annotation",
                "name": f"{CLASS} {index + 1}",
                "classification": {"name": CLASS, "color": _COLOUR},
                "isLocked": False,
                "measurements": {"area um2": polygon.area * (tissue.mpp / tissue.downsample) ** 2},
            },
        }
        for index, polygon in enumerate(tissue_polygons(tissue))
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False) + "\n"
