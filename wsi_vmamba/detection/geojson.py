"""Found objects as GeoJSON that QuPath opens: a detection each, with its class, score and area."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.detection.objects import Cut, Objects
from wsi_vmamba.masks.outline import mask_polygons

#: Colours of the classes in turn, RGB.
_COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))
#: Digits of level-0 coordinates behind the point.
_DIGITS = 2


def geojson_text(
    objects: Objects, *, classes: Sequence[str], slide_id: str, l0_per_px: float, mpp_l0: float
) -> str:
    """A FeatureCollection in level-0 pixels; an object's outline follows the edges of its mask's pixels.

    An object whose mask is empty has the outline of its box. Ids depend on the slide and the box, so that a second
    export replaces the objects of the first.

    Args:
        objects: in pixels of the detector's resolution.
        classes: names, by the objects' labels.
        slide_id: of the slide.
        l0_per_px: level-0 pixels per pixel of the objects.
        mpp_l0: um per level-0 pixel.
    """
    features = []
    for box, label, cut, score in zip(
        objects.boxes, objects.labels.tolist(), objects.cuts, objects.scores.tolist(), strict=True
    ):
        outline = shapely.transform(_outline(box, cut), lambda points: (points * l0_per_px).round(_DIGITS))
        name = f"wsi-vmamba/{slide_id}/{classes[label]}/{np.round(box, 2).tolist()}"
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
                "geometry": shapely.geometry.mapping(outline),
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": classes[label], "color": _COLOURS[label % len(_COLOURS)]},
                    "measurements": {
                        "score": round(score, 4),
                        "area um2": round(float(shapely.area(outline)) * mpp_l0**2, 2),
                    },
                },
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False) + "\n"


def _outline(box: NDArray[np.float64], cut: Cut) -> Any:
    """Polygon of the largest piece of a mask, holes filled."""
    pieces = mask_polygons(cut.mask)
    if not pieces:
        return shapely.box(*box)
    largest = max(pieces, key=lambda piece: float(shapely.area(piece)))
    ring = shapely.get_exterior_ring(largest)
    return shapely.polygons(shapely.transform(ring, lambda points: points + np.array([cut.x_px, cut.y_px])))
