"""ASAP XML: read with every group followed to the one it is part of, and written."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import numpy as np
import shapely
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from wsi_vmamba.annotation.build import Builder, Point, as_vertices, shown
from wsi_vmamba.annotation.model import GROUPS, Annotation, Role
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import AnnotationError

#: What ASAP paints outlines with.
_COLOR = "#F4FA58"
#: What ASAP writes where an outline or a group is part of none.
_NO_GROUP = "None"
#: Types whose points are no outline.
_WITHOUT_AREA = ("Dot", "PointSet", "Measurement")
#: Whose files these roots are, for those who took another program's file for ASAP's.
_OTHER_ROOTS = {
    "Annotations": "Aperio ImageScope",
    "annotations": "Hamamatsu NDP.view",
    "object-stream": "3DHISTECH",
}


def read_asap(
    path: str | Path,
    *,
    groups: Mapping[str, Role] = GROUPS,
    others: Role | None = None,
    content: bytes | None = None,
) -> Annotation:
    """Read ASAP XML: vertices by their Order, groups to roles, self-crossing outlines repaired.

    Args:
        path: the file.
        groups: what each group name (lower case) means; a subgroup that has no entry follows its parent.
        others: what all other names mean; None leaves them out.
        content: the bytes of the file, where they have been read.

    Raises:
        AnnotationError: as for `read_annotation`.
    """
    root = _parse(path, content)
    parents = _parents(root, where=str(path))
    builder = Builder(path, groups, others)
    for index, element in enumerate(root.iterfind("./Annotations/Annotation")):
        name = element.get("Name") or f"annotation {index}"
        kind = element.get("Type")
        if kind in _WITHOUT_AREA:
            builder.note(name, f"a {kind} has no area and is left out")
            continue
        vertices = _vertices(element, where=f"{path}: {shown(name)}")
        if kind == "Spline":
            builder.note(name, "a Spline is read as straight lines between its points")
        builder.add(name, _ancestry(element.get("PartOfGroup") or _NO_GROUP, parents), [(vertices, ())])
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
    described = {"Name": group, "PartOfGroup": _NO_GROUP, "Color": _COLOR}
    ElementTree.SubElement(ElementTree.SubElement(listed, "Group", described), "Attributes")
    ElementTree.indent(root, space="\t")
    text = ElementTree.tostring(root, encoding="unicode")
    write_atomic(Path(path), f'<?xml version="1.0"?>\n{text}\n')


def _parse(path: str | Path, content: bytes | None) -> ElementTree.Element:
    try:
        root = defusedxml.ElementTree.parse(
            os.fspath(path) if content is None else BytesIO(content), forbid_dtd=True
        ).getroot()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot read the annotation: {error.strerror}") from error
    except DefusedXmlException as error:
        raise AnnotationError(
            f"{path}: the XML declares a document type or entities, which can hide an attack; "
            "ASAP writes neither: remove the declaration"
        ) from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(
            f"{path}: not well-formed XML ({error}); save it again from ASAP, in UTF-8"
        ) from error
    if root is None or root.tag != "ASAP_Annotations":
        found = "nothing" if root is None else shown(root.tag)
        writer = f", as {_OTHER_ROOTS[found]} writes it" if found in _OTHER_ROOTS else ""
        raise AnnotationError(
            f"{path}: expected ASAP XML with the root ASAP_Annotations, got {found}{writer}; open the annotations in "
            "QuPath and export them as GeoJSON, or save them from ASAP"
        )
    parsed: ElementTree.Element = root
    return parsed


def _parents(root: ElementTree.Element, *, where: str) -> dict[str, str]:
    """The group that each group is part of, by name."""
    parents: dict[str, str] = {}
    for element in root.iterfind("./AnnotationGroups/Group"):
        name, parent = element.get("Name") or "", element.get("PartOfGroup") or _NO_GROUP
        if parents.setdefault(name, parent) != parent:
            raise AnnotationError(
                f"{where}: the group {shown(name)!r} is listed as part of {shown(parents[name])!r} and of "
                f"{shown(parent)!r}; rename one of them in ASAP"
            )
    return parents


def _ancestry(group: str, parents: Mapping[str, str]) -> list[str]:
    """A group and the groups it is part of, from the inside out; a circle of groups ends where it closes."""
    found = [group]
    while (parent := parents.get(found[-1], _NO_GROUP)) != _NO_GROUP and parent not in found:
        found.append(parent)
    return found


def _vertices(element: ElementTree.Element, *, where: str) -> list[Point]:
    """Vertices of an ASAP annotation, sorted by their Order."""
    found = [
        (_number(one, "Order", where), _number(one, "X", where), _number(one, "Y", where))
        for one in element.iterfind("./Coordinates/Coordinate")
    ]
    return [(x, y) for _, x, y in sorted(found, key=lambda vertex: vertex[0])]


def _number(coordinate: ElementTree.Element, key: str, where: str) -> float:
    text = coordinate.get(key)
    if text is None:
        raise AnnotationError(f"{where}: a Coordinate needs numbers in Order, X and Y; one has no {key}")
    try:
        return float(text)
    except ValueError:
        raise AnnotationError(
            f"{where}: a Coordinate needs numbers in Order, X and Y, written with a point; one has "
            f"{key}={shown(text)!r}"
        ) from None


def _outline_vertices(polygon: Any, *, where: str) -> NDArray[np.float64]:
    """Vertices of an outline to write, without the repeated last one."""
    if isinstance(polygon, shapely.Polygon):
        if len(polygon.interiors):
            raise AnnotationError(f"{where}: ASAP outlines have no holes; write the hole as an Exclusion")
        polygon = shapely.get_coordinates(polygon.exterior)
    vertices = as_vertices(polygon, where=where)
    if len(vertices) > 1 and np.array_equal(vertices[0], vertices[-1]):
        vertices = vertices[:-1]
    if len(vertices) < 3:
        raise AnnotationError(f"{where}: an outline needs three vertices, got {len(vertices)}")
    return vertices
