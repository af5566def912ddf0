"""GeoJSON as QuPath and others write it, checked piece by piece before anything is taken from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba.annotation.build import Builder, Point, Polygon, shown
from wsi_vmamba.annotation.model import GROUPS, Annotation, Role
from wsi_vmamba.errors import AnnotationError

_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_GEOMETRIES = (*_WITHOUT_AREA, "Polygon", "MultiPolygon", "GeometryCollection")
#: What a class is called where a feature has none.
_NO_CLASS = "None"
#: What QuPath puts between the names of a class and of what it is part of.
_SEPARATOR = ": "
_REMEDY = "export it again, for example from QuPath as GeoJSON"


def read_geojson(
    path: str | Path,
    *,
    groups: Mapping[str, Role] = GROUPS,
    others: Role | None = None,
    content: bytes | None = None,
) -> Annotation:
    """Read GeoJSON as QuPath exports it: polygons in level-0 pixels, with the class in each feature.

    A FeatureCollection, a list of features, one feature or a bare geometry; UTF-8, UTF-16 or UTF-32, with or
    without a byte order mark. Of a class within a class ("Tumor: Necrosis") the innermost name that ``groups``
    has decides. Features without geometry, points and lines are noted.

    Args:
        path: the file.
        groups: what each class name (lower case) means.
        others: what all other names mean; None leaves them out.
        content: the bytes of the file, where they have been read.

    Raises:
        AnnotationError: as for `read_annotation`.
    """
    builder = Builder(path, groups, others)
    for index, feature in enumerate(_features(_load(path, content), where=str(path))):
        where = f"{path}: feature {index}"
        properties = _object(feature.get("properties") or {}, "properties", where=where)
        label = _label(properties.get("name")) or f"feature {index}"
        geometry = feature.get("geometry")
        if geometry is None:
            builder.note(label, "has no geometry and is left out")
            continue
        polygons: list[Polygon] = []
        for part in _flat(geometry, where=where):
            if part["type"] in _WITHOUT_AREA:
                builder.note(label, f"a {part['type']} has no area and is left out")
            else:
                polygons += _polygons(part, where=where)
        if polygons:
            builder.add(label, _classes(properties.get("classification"), where=where), polygons)
    return builder.build()


def _load(path: str | Path, content: bytes | None) -> Any:
    try:
        content = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise AnnotationError(f"{path}: cannot read the annotation: {error.strerror}") from error
    try:
        # Given bytes, it looks for a byte order mark and for UTF-16 itself.
        return json.loads(content, parse_int=float)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: byte {error.start} is not UTF-8, as GeoJSON must be (is the file in Latin-1 or a Windows "
            "encoding?); save it as UTF-8 with a text editor"
        ) from error
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}; {_REMEDY}"
        ) from error
    except RecursionError as error:
        raise AnnotationError(f"{path}: not JSON that is nested this deep; {_REMEDY}") from error


def _features(content: Any, *, where: str) -> Iterator[Mapping[str, Any]]:
    """The features of a FeatureCollection, of a bare list, a single Feature, or a bare geometry as a feature."""
    found = content if isinstance(content, list) else [_object(content, "the whole", where=where)]
    if not isinstance(content, list) and content.get("type") == "FeatureCollection":
        found = _list(content.get("features"), "features", where=where)
    for index, feature in enumerate(found):
        here = f"{where}: feature {index}"
        if _object(feature, "a feature", where=here).get("type") in _GEOMETRIES:
            yield {"geometry": feature}
            continue
        if feature.get("type") != "Feature" or "geometry" not in feature:
            raise AnnotationError(
                f"{here}: expected a Feature with a geometry, or a geometry, got {_kind(feature)}; {_REMEDY}"
            )
        yield feature


def _flat(geometry: Any, *, where: str) -> Iterator[Mapping[str, Any]]:
    """A geometry, or those that a GeometryCollection holds at any depth, in their order."""
    pending = [geometry]
    while pending:
        one = pending.pop()
        if _object(one, "a geometry", where=where).get("type") not in _GEOMETRIES:
            raise AnnotationError(
                f"{where}: expected one of the geometries {', '.join(_GEOMETRIES)}, got {_kind(one)}; {_REMEDY}"
            )
        if one["type"] == "GeometryCollection":
            pending += reversed(_list(one.get("geometries"), "geometries", where=where))
        else:
            yield one


def _polygons(geometry: Mapping[str, Any], *, where: str) -> list[Polygon]:
    coordinates = _list(geometry.get("coordinates"), "coordinates", where=where)
    several = coordinates if geometry["type"] == "MultiPolygon" else [coordinates]
    polygons: list[Polygon] = []
    for rings in several:
        found = [_ring(ring, where=where) for ring in _list(rings, "a polygon", where=where)]
        if found:
            polygons.append((found[0], found[1:]))
    return polygons


def _ring(ring: Any, *, where: str) -> list[Point]:
    return [_point(point, where=where) for point in _list(ring, "a ring", where=where)]


def _point(point: Any, *, where: str) -> Point:
    # GeoJSON may carry a height as the third number. Whole numbers are floats here, and true is none of them.
    if isinstance(point, list) and len(point) >= 2 and all(isinstance(value, float) for value in point):
        return point[0], point[1]
    raise AnnotationError(f"{where}: coordinates must be pairs of numbers, got {_kind(point)}; {_REMEDY}")


def _label(name: Any) -> str:
    return f"{name:g}" if isinstance(name, float) else name if isinstance(name, str) else ""


def _classes(classification: Any, *, where: str) -> list[str]:
    """The names of a class, the innermost first: QuPath writes one name, or since 0.4 a list of them."""
    if isinstance(classification, dict):
        names = classification.get("names", classification.get("name"))
    else:
        names = classification
    if names is None or names in ("", []):
        return [_NO_CLASS]
    if isinstance(names, str):
        names = [names, *reversed(names.split(_SEPARATOR))] if _SEPARATOR in names else [names]
    elif isinstance(names, list) and all(isinstance(name, str) for name in names):
        names = [_SEPARATOR.join(names), *reversed(names)]
    else:
        raise AnnotationError(
            f"{where}: expected the classification as a name, or as an object with name or names, got "
            f"{_kind(classification)}; {_REMEDY}"
        )
    return list(names)


def _object(value: Any, what: str, *, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AnnotationError(f"{where}: expected {what} as an object {{…}}, got {_kind(value)}; {_REMEDY}")
    return value


def _list(value: Any, what: str, *, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(f"{where}: expected {what} as a list […], got {_kind(value)}; {_REMEDY}")
    return value


def _kind(value: Any) -> str:
    """What a piece of JSON is, in words."""
    if isinstance(value, dict):
        kind = value.get("type")
        return f"an object of type {shown(kind)!r}" if isinstance(kind, str) else "an object without a type"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"the text {shown(value)!r}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the number {value:g}"
