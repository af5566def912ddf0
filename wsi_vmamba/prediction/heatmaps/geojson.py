"""GeoJSON for QuPath: the patches of each band of values as one outline, not a square per patch."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.prediction.heatmaps.formats import Format
from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap
from wsi_vmamba.report.heatmap import colour_of


def write_geojson(heatmap: Heatmap, path: Path, bands: int) -> None:
    """Write a FeatureCollection with an annotation per band that has patches, lowest first.

    The bands divide the range of the heatmap's colours evenly; what is above it is in the highest. Coordinates are
    level-0 pixels, and neighbouring bands share their edges exactly.
    """
    values, patches = heatmap.patches.values, heatmap.patches
    edges = np.linspace(patches.low, patches.high, bands + 1)
    band = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bands - 1)
    boxes = heatmap.prediction.boxes_l0.round(3)
    features = [
        _feature(heatmap, boxes[band == number], values[band == number], edges=edges, number=number)
        for number in range(bands)
        if (band == number).any()
    ]
    collection = {"type": "FeatureCollection", "features": features}
    write_atomic(path, json.dumps(collection, allow_nan=False, separators=(",", ":")))


def _feature(
    heatmap: Heatmap,
    boxes: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    edges: NDArray[np.float64],
    number: int,
) -> dict[str, Any]:
    """One band as QuPath's annotation, with its class, colour and measurements."""
    low, high = float(edges[number]), float(edges[number + 1])
    # Patches of one grid: their edges match, so no general union is needed.
    outline = shapely.coverage_union_all(shapely.box(*boxes.T))
    last = number == len(edges) - 2
    name = f"{heatmap.layer} {low:.3g} and more" if last else f"{heatmap.layer} {low:.3g}-{high:.3g}"
    middle = np.array([(low + high) / 2])
    colour = colour_of(middle, low=heatmap.patches.low, high=heatmap.patches.high)[0]
    about = f"wsi-vmamba/{heatmap.slide_id}/heatmap/{heatmap.layer}/{number}/{len(edges) - 1}"
    um2 = heatmap.prediction.mpp**2
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, about)),
        "geometry": shapely.geometry.mapping(outline),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "isLocked": True,
            "classification": {"name": name, "color": [round(part) for part in colour.tolist()]},
            "measurements": {
                "patches": len(values),
                f"mean {heatmap.patches.quantity}": float(values.mean()),
                f"max {heatmap.patches.quantity}": float(values.max()),
                "area um2": float(outline.area * um2),
            },
        },
    }


GEOJSON = Format(".geojson", write_geojson)
