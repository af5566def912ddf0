"""What people draw: checked, and kept as one GeoJSON a slide that `--mask`, `--annotations` and QuPath read."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba.annotation.build import FARTHEST_L0
from wsi_vmamba.durable import require_writable, write_atomic
from wsi_vmamba.errors import AnnotationError, StoreError
from wsi_vmamba.text import printable
from wsi_vmamba.view.row import SlideRow

MAX_BYTES = 8 << 20
_MAX_FEATURES = 20_000
_LONGEST_NAME = 100
_EMPTY = b'{"type":"FeatureCollection","features":[]}\n'
#: How deep the numbers lie in each kind of geometry.
_DEPTHS = {"Point": 0, "LineString": 1, "Polygon": 2, "MultiPolygon": 3}
#: What a class is called that is asked for on a page without any.
CLASSES = ("Tumor", "Normal", "Tissue", "Ignore")


class ChangedError(StoreError):
    """Somebody else saved in between."""


@dataclass(frozen=True)
class Saved:
    """What lies in the folder: the bytes, their tag, and how many shapes they are."""

    content: bytes
    tag: str


class Drawings:
    """The folder of drawings; may be used from any thread."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made before something is drawn."""
        self.folder = folder
        self._lock = threading.Lock()

    def refusal(self) -> str:
        """Why nothing can be drawn; empty where it can."""
        try:
            require_writable(self.folder, option="--drawings")
        except StoreError:
            return "the folder for drawings cannot be written; give another one with --drawings"
        return ""

    def path_of(self, row: SlideRow) -> Path:
        """The file of a slide.

        Raises:
            StoreError: the slide's name cannot be that of a file in the folder.
        """
        name = f"{row.name}.geojson"
        if name != Path(name).name or name.startswith(".") or "\0" in name or name != printable(name):
            raise StoreError(f"a slide of the name {printable(row.name)} cannot have a file of its name")
        return self.folder / name

    def read(self, row: SlideRow) -> Saved:
        """What was drawn; an empty collection where nothing was.

        Raises:
            StoreError: the file cannot be read.
        """
        path = self.path_of(row)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = _EMPTY
        except OSError as error:
            raise StoreError(f"cannot read {path.name} ({error.strerror})") from error
        return Saved(content, tag_of(content))

    def write(self, row: SlideRow, body: bytes, *, tag: str) -> tuple[Saved, int]:
        """Replace what was drawn, if it is still what ``tag`` names; return it and the number of shapes.

        Raises:
            AnnotationError: the body is no GeoJSON of areas on a slide.
            ChangedError: somebody else saved in between.
            StoreError: the file cannot be written.
        """
        features = checked(body)
        content = (
            json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False, indent=1) + "\n"
        ).encode()
        with (
            self._lock
        ):  # held for one small file, of one slide at a time: what was compared must still be there
            if self.read(row).tag != tag:
                raise ChangedError(
                    f"the drawings of {row.name} were changed by somebody else; load them again"
                )
            write_atomic(self.path_of(row), content)
        return Saved(content, tag_of(content)), len(features)


def tag_of(content: bytes) -> str:
    """Names a content."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def checked(body: bytes) -> list[dict[str, Any]]:
    """The features of a FeatureCollection, with what is known of them and nothing else.

    Raises:
        AnnotationError: naming the feature and what is wrong with it.
    """
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"the drawing is no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("type") != "FeatureCollection":
        raise AnnotationError("expected a FeatureCollection")
    features = content.get("features")
    if not isinstance(features, list) or len(features) > _MAX_FEATURES:
        raise AnnotationError(f"expected a list of at most {_MAX_FEATURES} features")
    return [_feature(each, f"feature {index}") for index, each in enumerate(features)]


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _feature(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict) or found.get("type") != "Feature":
        raise AnnotationError(f"{where}: expected a Feature")
    geometry, properties = found.get("geometry"), found.get("properties") or {}
    if not isinstance(geometry, dict) or not isinstance(properties, dict):
        raise AnnotationError(f"{where}: expected a geometry and properties")
    kept: dict[str, Any] = {"type": "Feature"}
    if "id" in found:
        kept["id"] = _text(found["id"], f"{where}: id")
    kept["geometry"] = _geometry(geometry, where)
    kept["properties"] = {"objectType": "annotation", **_properties(properties, where)}
    return kept


def _properties(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if found.get("name") is not None:
        kept["name"] = _text(found["name"], f"{where}: name")
    group = found.get("classification")
    if group is not None:
        if not isinstance(group, dict):
            raise AnnotationError(f"{where}: expected the classification as an object with a name")
        kept["classification"] = {"name": _text(group.get("name"), f"{where}: class")}
        colour = group.get("color")
        if colour is not None:
            if not _is_colour(colour):
                raise AnnotationError(f"{where}: expected the colour as three whole numbers from 0 to 255")
            kept["classification"]["color"] = colour
    for name in ("isLocked",):
        if isinstance(found.get(name), bool):
            kept[name] = found[name]
    return kept


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        raise AnnotationError(f"{what}: expected a text of 1 to {_LONGEST_NAME} printable characters")
    return value


def _geometry(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = found.get("type")
    if not isinstance(kind, str) or kind not in _DEPTHS:
        raise AnnotationError(f"{where}: expected one of {', '.join(_DEPTHS)}")
    coordinates = _nested(found.get("coordinates"), _DEPTHS[kind], where)
    if kind == "LineString" and len(coordinates) < 2:
        raise AnnotationError(f"{where}: expected a line of at least two points")
    if kind in {"Polygon", "MultiPolygon"}:
        polygons = [coordinates] if kind == "Polygon" else coordinates
        if not polygons or not all(polygons):
            raise AnnotationError(f"{where}: expected a polygon of at least one ring")
        for rings in polygons:
            rings[:] = [_closed(ring, where) for ring in rings]
    return {"type": kind, "coordinates": coordinates}


def _closed(ring: list[list[float]], where: str) -> list[list[float]]:
    closed = ring if ring and ring[0] == ring[-1] else [*ring, *ring[:1]]
    if len({tuple(point) for point in closed}) < 3:
        raise AnnotationError(f"{where}: expected a ring of at least three different points")
    return closed


def _nested(value: Any, depth: int, where: str) -> Any:
    if not isinstance(value, list):
        raise AnnotationError(f"{where}: expected coordinates as lists of numbers")
    if depth:
        return [_nested(each, depth - 1, where) for each in value]
    if len(value) < 2 or not all(_is_on_slide(each) for each in value[:2]):
        raise AnnotationError(f"{where}: expected points as pairs of numbers, in level-0 pixels")
    return value[:2]


def _is_on_slide(value: Any) -> bool:
    """Whether a number can be a level-0 pixel."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= FARTHEST_L0
