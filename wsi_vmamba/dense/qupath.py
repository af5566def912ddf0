"""Outlines as GeoJSON that QuPath opens: an object each, with its class, colour and measurements."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import shapely

#: Colours of classes, in turn, RGB.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75), (227, 119, 194), (127, 127, 127),
    (188, 189, 34), (23, 190, 207), (214, 39, 40),
)  # fmt: skip
Rgb = tuple[int, int, int]


def colour_of(place: int) -> Rgb:
    """The colour of the class at a place among the classes, from 0."""
    return _COLOURS[place % len(_COLOURS)]


def feature(
    outline: Any,
    *,
    kind: Literal["annotation", "detection"],
    about: str,
    class_name: str,
    colour: Rgb,
    measurements: Mapping[str, float],
    name: str | None = None,
) -> dict[str, Any]:
    """One object.

    Args:
        outline: a polygon in level-0 pixels.
        kind: an annotation can be edited; detections may be many.
        about: what makes it this object and no other; its id depends on that only, so that a second import replaces it.
        class_name: of its class.
        colour: of its class.
        measurements: name -> number.
        name: that QuPath shows.
    """
    named = {} if name is None else {"name": name, "isLocked": False}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"wsi-vmamba/{about}")),
        "geometry": shapely.geometry.mapping(outline),
        "properties": {
            "objectType": kind,
            **named,
            "classification": {"name": class_name, "color": list(colour)},
            "measurements": dict(measurements),
        },
    }


def collection(features: Iterable[Mapping[str, Any]]) -> str:
    """The text of a file of such objects."""
    content = {"type": "FeatureCollection", "features": list(features)}
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
