"""Found objects as GeoJSON that QuPath opens: a detection each, with its class, score and area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.dense import qupath
from wsi_vmamba.detection.objects import Cut, Objects
from wsi_vmamba.masks.outline import mask_polygons
from wsi_vmamba.text import printable

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
        name = classes[label]
        features.append(
            qupath.feature(
                outline,
                kind="detection",
                about=f"{printable(slide_id)}/detect/{printable(name)}/{np.round(box, 2).tolist()}",
                class_name=name,
                colour=qupath.colour_of(label),
                measurements={
                    "score": round(score, 4),
                    "area um2": round(float(shapely.area(outline)) * mpp_l0**2, 2),
                },
            )
        )
    return qupath.collection(features)


def _outline(box: NDArray[np.float64], cut: Cut) -> Any:
    """Polygon of the largest piece of a mask, holes filled."""
    pieces = mask_polygons(cut.mask)
    if not pieces:
        return shapely.box(*box)
    largest = max(pieces, key=lambda piece: float(shapely.area(piece)))
    ring = shapely.get_exterior_ring(largest)
    return shapely.polygons(shapely.transform(ring, lambda points: points + np.array([cut.x_px, cut.y_px])))
