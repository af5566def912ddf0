"""Lesion outlines: ASAP XML and GeoJSON to polygons in level-0 pixels, masks at any resolution, ASAP XML out."""

from __future__ import annotations

import itertools
import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import numpy as np
import shapely
from defusedxml.common import DefusedXmlException
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import AnnotationError, UsageError

#: What ASAP paints outlines with.
_COLOR = "#F4FA58"


#: No slide is so large, and arithmetic on areas stays exact up to here.
_FARTHEST_L0 = 1e8


class Role(Enum):
    """What the inside of an outline is."""

    TUMOR = "tumor"
    EXCLUSION = "exclusion"


#: Group and class names of CAMELYON16, CAMELYON17 and QuPath, in lower case.
GROUPS: Mapping[str, Role] = {
    "tumor": Role.TUMOR,
    "tumour": Role.TUMOR,
    "_0": Role.TUMOR,
    "_1": Role.TUMOR,
    "metastases": Role.TUMOR,
    "exclusion": Role.EXCLUSION,
    "_2": Role.EXCLUSION,
    "normal": Role.EXCLUSION,
}


@dataclass(frozen=True, kw_only=True)
class Outline:
    """One annotated area.

    Attributes:
        name: its name in the file.
        group: its group or class in the file.
        role: what the group means.
        geometry: shapely Polygon or MultiPolygon, valid, level-0 pixels (x, y).
    """

    name: str
    group: str
    role: Role
    geometry: Any


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The annotation of one slide; all lengths and areas are level-0 pixels.

    Attributes:
        outlines: the areas, in the order of the file.
        notes: what was repaired or left out, one sentence each, for the user to see.
    """

    outlines: tuple[Outline, ...]
    notes: tuple[str, ...] = ()

    @property
    def tumor(self) -> tuple[Any, ...]:
        """Geometries that are tumour, before exclusions are cut out."""
        return tuple(o.geometry for o in self.outlines if o.role is Role.TUMOR)

    @property
    def exclusions(self) -> tuple[Any, ...]:
        """Geometries to be cut out of the tumour."""
        return tuple(o.geometry for o in self.outlines if o.role is Role.EXCLUSION)

    def tumor_region(self) -> Any:
        """Union of the tumour outlines minus the union of the exclusions, as one shapely geometry."""
        return shapely.difference(shapely.union_all(self.tumor), shapely.union_all(self.exclusions))

    def tumor_area(self) -> float:
        """Area of `tumor_region` in square level-0 pixels."""
        return float(shapely.area(self.tumor_region()))

    def rasterize(self, *, width_px: int, height_px: int, downsample: float) -> NDArray[np.bool_]:
        """Draw the tumour region.

        Args:
            width_px: width of the mask.
            height_px: height of the mask.
            downsample: level-0 pixels per mask pixel.

        Returns:
            bool, shape (height_px, width_px): True where the centre of the mask pixel, level-0
            ((column + 0.5) * downsample, (row + 0.5) * downsample), lies in the tumour region.
        """
        if width_px <= 0 or height_px <= 0 or not downsample > 0:
            raise UsageError(
                f"a mask needs a positive size and downsample, got {width_px} x {height_px} at {downsample}"
            )
        rings = [ring / downsample for ring in _rings(self.tumor_region())]
        return _even_odd(rings, width_px=width_px, height_px=height_px)


def read_annotation(
    path: str | Path, *, groups: Mapping[str, Role] = GROUPS, others: Role | None = None
) -> Annotation:
    """Read an annotation file: GeoJSON where the name ends in .json or .geojson, else ASAP XML.

    Args:
        path: the file.
        groups: what each group or class name (lower case) means.
        others: what all other names mean; None leaves them out, with a note.

    Raises:
        AnnotationError: the file is missing, malformed, declares entities, or has areas of unknown groups only.
    """
    path = Path(path)
    if path.suffix.lower() in (".json", ".geojson"):
        return read_geojson(path, groups=groups, others=others)
    return read_asap(path, groups=groups, others=others)


def read_asap(
    path: str | Path, *, groups: Mapping[str, Role] = GROUPS, others: Role | None = None
) -> Annotation:
    """Read ASAP XML: vertices by their Order, groups to roles, self-crossing outlines repaired.

    Args:
        path: the file.
        groups: what each group name (lower case) means.
        others: what all other names mean; None leaves them out.

    Raises:
        AnnotationError: as for `read_annotation`.
    """
    try:
        root = defusedxml.ElementTree.parse(os.fspath(path), forbid_dtd=True).getroot()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot read the annotation: {error.strerror}") from error
    except DefusedXmlException as error:
        raise AnnotationError(
            f"{path}: the XML declares a document type or entities, which can hide an attack; "
            "ASAP writes neither: remove the declaration"
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"{path}: not well-formed XML: {error}") from error
    if root is None or root.tag != "ASAP_Annotations":
        found = "nothing" if root is None else root.tag
        raise AnnotationError(f"{path}: expected ASAP XML with the root ASAP_Annotations, got {found}")
    builder = _Builder(path, groups, others)
    for index, element in enumerate(root.iterfind("./Annotations/Annotation")):
        name = element.get("Name") or f"annotation {index}"
        group = element.get("PartOfGroup") or "None"
        if element.get("Type") in ("Dot", "PointSet", "Measurement"):
            builder.notes.append(f"{name}: a {element.get('Type')} has no area and is left out")
            continue
        builder.add(name, group, [(_asap_vertices(element, where=f"{path}: {name}"), ())])
    return builder.build()


def read_geojson(
    path: str | Path, *, groups: Mapping[str, Role] = GROUPS, others: Role | None = None
) -> Annotation:
    """Read GeoJSON as QuPath exports it: polygons in level-0 pixels, with the class in each feature.

    Args:
        path: the file.
        groups: what each class name (lower case) means.
        others: what all other names mean; None leaves them out.

    Raises:
        AnnotationError: as for `read_annotation`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(f"{path}: cannot read the annotation: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    builder = _Builder(path, groups, others)
    try:
        for index, feature in enumerate(_features(content)):
            properties = feature.get("properties") or {}
            name = str(properties.get("name") or f"feature {index}")
            group = str((properties.get("classification") or {}).get("name") or "None")
            geometry = feature["geometry"]
            polygons = _geojson_polygons(geometry)
            if polygons is None:
                builder.notes.append(f"{name}: a {geometry['type']} has no area and is left out")
                continue
            builder.add(name, group, [(p[0], tuple(p[1:])) for p in polygons])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise AnnotationError(f"{path}: not GeoJSON features with polygons: {error!r}") from error
    return builder.build()


def write_asap(path: str | Path, polygons: Sequence[Any], group: str = "Tumor") -> None:
    """Write outlines of one group as ASAP XML.

    Args:
        path: file to write, replaced whole.
        polygons: arrays of shape (n, 2), level-0 (x, y), or shapely polygons without holes.
        group: group of all of them.

    Raises:
        AnnotationError: an outline has fewer than three vertices, a hole or a value that is no number.
    """
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    for index, polygon in enumerate(polygons):
        attributes = {"Name": f"Annotation {index}", "Type": "Polygon", "PartOfGroup": group, "Color": _COLOR}
        element = ElementTree.SubElement(annotations, "Annotation", attributes)
        coordinates = ElementTree.SubElement(element, "Coordinates")
        for order, (x, y) in enumerate(_outline_vertices(polygon, where=f"{path}: polygon {index}")):
            place = {"Order": str(order), "X": repr(float(x)), "Y": repr(float(y))}
            ElementTree.SubElement(coordinates, "Coordinate", place)
    listed = ElementTree.SubElement(root, "AnnotationGroups")
    described = {"Name": group, "PartOfGroup": "None", "Color": _COLOR}
    ElementTree.SubElement(ElementTree.SubElement(listed, "Group", described), "Attributes")
    ElementTree.indent(root, space="\t")
    text = ElementTree.tostring(root, encoding="unicode")
    write_atomic(Path(path), f'<?xml version="1.0"?>\n{text}\n')


class _Builder:
    """Collects the outlines of one file, with what was repaired or left out."""

    def __init__(self, path: str | Path, groups: Mapping[str, Role], others: Role | None) -> None:
        self.path = path
        self.groups = groups
        self.others = others
        self.outlines: list[Outline] = []
        self.notes: list[str] = []
        self.unknown: set[str] = set()

    def add(self, name: str, group: str, polygons: Sequence[tuple[ArrayLike, Sequence[ArrayLike]]]) -> None:
        """Add one area made of (shell, holes) polygons."""
        role = self.groups.get(group.casefold(), self.others)
        if role is None:
            self.unknown.add(group)
            self.notes.append(f"{name}: group {group!r} is neither tumour nor exclusion; left out")
            return
        parts = [self._polygon(name, shell, holes) for shell, holes in polygons]
        geometry = shapely.union_all([part for part in parts if part is not None])
        if shapely.area(geometry) == 0:
            self.notes.append(f"{name}: encloses no area and is left out")
            return
        self.outlines.append(Outline(name=name, group=group, role=role, geometry=geometry))

    def build(self) -> Annotation:
        """Return the annotation; a file whose every group is unknown is refused."""
        if self.unknown and not self.outlines:
            raise AnnotationError(
                f"{self.path}: no area belongs to a known group; the file has "
                f"{', '.join(sorted(self.unknown))}, known are {', '.join(sorted(self.groups))}: pass `groups`"
            )
        return Annotation(outlines=tuple(self.outlines), notes=tuple(self.notes))

    def _polygon(self, name: str, shell: ArrayLike, holes: Sequence[ArrayLike]) -> Any | None:
        """A valid polygon, or None for fewer than three vertices."""
        shell = _numbers(shell, where=f"{self.path}: {name}")
        if len(shell) < 3:
            return None
        inner = [_numbers(hole, where=f"{self.path}: {name}") for hole in holes]
        polygon = shapely.Polygon(shell, [hole for hole in inner if len(hole) >= 3])
        if polygon.is_valid:
            return polygon
        self.notes.append(f"{name}: repaired ({shapely.is_valid_reason(polygon)})")
        # make_valid may add lines where an outline folds back on itself; only areas count.
        parts = shapely.get_parts(shapely.make_valid(polygon))
        return shapely.union_all([part for part in parts if shapely.area(part) > 0])


def _asap_vertices(element: ElementTree.Element, *, where: str) -> list[tuple[float, float]]:
    """Vertices of an ASAP annotation, sorted by their Order."""
    vertices = []
    for coordinate in element.iterfind("./Coordinates/Coordinate"):
        try:
            order, x, y = (float(coordinate.attrib[key]) for key in ("Order", "X", "Y"))
        except (KeyError, ValueError) as error:
            raise AnnotationError(
                f"{where}: a Coordinate needs numbers in Order, X and Y: {error}"
            ) from error
        vertices.append((order, x, y))
    return [(x, y) for _, x, y in sorted(vertices, key=lambda vertex: vertex[0])]


def _features(content: Any) -> list[Any]:
    """The features of a FeatureCollection, a bare list or a single Feature."""
    if isinstance(content, list):
        return content
    if content["type"] == "FeatureCollection":
        return list(content["features"])
    return [content]


def _geojson_polygons(geometry: Mapping[str, Any]) -> list[Any] | None:
    """Polygons as [shell, hole, ...] rings; None for points and lines."""
    if geometry["type"] == "Polygon":
        return [geometry["coordinates"]]
    if geometry["type"] == "MultiPolygon":
        return list(geometry["coordinates"])
    return None


def _numbers(vertices: ArrayLike, *, where: str) -> NDArray[np.float64]:
    """Vertices as float64, shape (n, 2); anything else is refused."""
    try:
        array = np.asarray(vertices, dtype=np.float64).reshape(len(np.atleast_1d(vertices)), -1)
    except (ValueError, TypeError) as error:
        raise AnnotationError(f"{where}: coordinates must be pairs of numbers: {error}") from error
    if len(array) and array.shape[1] < 2:
        raise AnnotationError(f"{where}: coordinates must be pairs of numbers, got {array.shape[1]} a vertex")
    # GeoJSON may carry a height as the third number.
    array = array[:, :2] if len(array) else np.empty((0, 2))
    if not (np.abs(array) <= _FARTHEST_L0).all():  # NaN is not either
        raise AnnotationError(
            f"{where}: a coordinate is no number, or farther out than {_FARTHEST_L0:.0e} px"
        )
    return array


def _outline_vertices(polygon: Any, *, where: str) -> NDArray[np.float64]:
    """Vertices of an outline to write, without the repeated last one."""
    if isinstance(polygon, shapely.Polygon):
        if len(polygon.interiors):
            raise AnnotationError(f"{where}: ASAP outlines have no holes; write the hole as an Exclusion")
        polygon = shapely.get_coordinates(polygon.exterior)
    vertices = _numbers(polygon, where=where)
    if len(vertices) > 1 and np.array_equal(vertices[0], vertices[-1]):
        vertices = vertices[:-1]
    if len(vertices) < 3:
        raise AnnotationError(f"{where}: an outline needs three vertices, got {len(vertices)}")
    return vertices


def _rings(geometry: Any) -> Iterator[NDArray[np.float64]]:
    """Every closed ring of a geometry, outer and inner alike, shape (n, 2), first vertex repeated last."""
    for part in shapely.get_parts(geometry):
        if isinstance(part, shapely.Polygon):
            for ring in shapely.get_rings(part):
                yield shapely.get_coordinates(ring)


def _even_odd(rings: Sequence[NDArray[np.float64]], *, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Fill closed rings, in mask pixels, by the even-odd rule at pixel centres."""
    flips = np.zeros((height_px, width_px + 1), dtype=np.uint8)
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            low, high = (y0, y1) if y0 < y1 else (y1, y0)
            # Rows whose centre lies in [low, high): half open, so that a shared vertex counts once.
            first, last = max(0, math.ceil(low - 0.5)), min(height_px, math.ceil(high - 0.5))
            if first >= last:
                continue
            rows = np.arange(first, last)
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(x - 0.5), 0, width_px).astype(np.int64)
            # Within one edge every row occurs once, so plain indexing does not lose a flip.
            flips[rows, columns] ^= 1
    filled: NDArray[np.bool_] = np.bitwise_xor.accumulate(flips, axis=1)[:, :width_px].astype(np.bool_)
    return filled
