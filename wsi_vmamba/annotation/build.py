"""From the areas of one file, whatever its format, to an `Annotation`; every word for the user is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.annotation.model import GROUPS, Annotation, Outline, Role
from wsi_vmamba.errors import AnnotationError

#: No slide is so large, and arithmetic on areas stays exact up to here.
FARTHEST_L0 = 1e8
#: Characters of a name that are shown.
_SHOWN_CHARACTERS = 60

#: One corner, level-0 (x, y).
Point = tuple[float, float]
#: The outer ring and the holes of one polygon.
Polygon = tuple[Sequence[Point], Sequence[Sequence[Point]]]


class Builder:
    """Collects the outlines of one file, with what was repaired or left out."""

    def __init__(self, path: str | Path, groups: Mapping[str, Role], others: Role | None) -> None:
        """Take the file's path, what each group (lower case) means, and what all others mean."""
        self.path = path
        self.groups = groups
        self.others = others
        self.outlines: list[Outline] = []
        self.left_out: list[Any] = []
        self.notes: list[str] = []
        self._unknown: set[str] = set()

    def add(self, name: str, groups: Sequence[str], polygons: Sequence[Polygon]) -> None:
        """Add one area made of (shell, holes) polygons.

        Args:
            name: of the area.
            groups: its own group first, then the groups that one is part of; the first that means something
                decides.
            polygons: its rings, level-0 pixels.
        """
        name, group = shown(name), shown(groups[0]) if groups else "None"
        geometry = self._area(name, polygons)
        if shapely.area(geometry) == 0:
            self.note(name, "encloses no area and is left out")
            return
        names = (one.strip().casefold() for one in groups)
        known_as = next((one for one in names if one in self.groups), "")
        role = self.groups[known_as] if known_as else self.others
        if role is None:
            self._unknown.add(group)
            self.left_out.append(geometry)
            self.note(
                name,
                f"group {group!r} is {self._none_of_them()}; left out, what is inside is not known",
            )
            return
        self.outlines.append(Outline(name=name, group=group, role=role, geometry=geometry, known_as=known_as))

    def note(self, name: str, what: str) -> None:
        """Keep a sentence for the user about one area."""
        self.notes.append(f"{shown(name)}: {what}")

    def build(self) -> Annotation:
        """Return the annotation; a file whose every group is unknown is refused."""
        if self._unknown and not self.outlines:
            raise AnnotationError(
                f"{self.path}: no area belongs to a known group; the file has {', '.join(sorted(self._unknown))}, "
                f"known are {', '.join(sorted(self.groups))}: give the areas one of these groups or classes (from "
                "Python: pass `groups`)"
            )
        return Annotation(
            outlines=tuple(self.outlines), left_out=tuple(self.left_out), notes=tuple(self.notes)
        )

    def _none_of_them(self) -> str:
        if self.groups is GROUPS:
            return "neither tumour nor exclusion"
        return f"none of {', '.join(sorted(self.groups))}"

    def _area(self, name: str, polygons: Sequence[Polygon]) -> Any:
        """The union of polygons as one valid geometry."""
        try:
            parts = [self._polygon(name, shell, holes) for shell, holes in polygons]
            return shapely.union_all([part for part in parts if part is not None])
        except shapely.errors.GEOSException as error:
            raise AnnotationError(
                f"{self.path}: {name}: the outline cannot be made into an area ({error}); draw it again"
            ) from error

    def _polygon(self, name: str, shell: Sequence[Point], holes: Sequence[Sequence[Point]]) -> Any | None:
        """A valid polygon, or None for fewer than three vertices."""
        outer = self._vertices(name, shell)
        inner = [self._vertices(name, hole) for hole in holes]
        if len(outer) < 3:
            return None
        polygon = shapely.Polygon(outer, [hole for hole in inner if len(hole) >= 3])
        if polygon.is_valid:
            return polygon
        self.note(name, f"repaired ({shapely.is_valid_reason(polygon)})")
        # make_valid may add lines where an outline folds back on itself; only areas count.
        parts = shapely.get_parts(shapely.make_valid(polygon))
        return shapely.union_all([part for part in parts if shapely.area(part) > 0])

    def _vertices(self, name: str, ring: Sequence[Point]) -> NDArray[np.float64]:
        return as_vertices(ring, where=f"{self.path}: {name}")


def as_vertices(ring: Sequence[Point] | NDArray[np.float64], *, where: str) -> NDArray[np.float64]:
    """Corners as float64, shape (n, 2); what is no number or off every slide is refused."""
    vertices = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    if not (np.abs(vertices) <= FARTHEST_L0).all():  # NaN is not either
        raise AnnotationError(
            f"{where}: a coordinate is no number, or farther out than {FARTHEST_L0:.0e} px; coordinates must be in "
            "level-0 pixels"
        )
    return vertices


def shown(name: str) -> str:
    """A name from a file as it may be printed: on one line, without control characters, not too long."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return printable if len(printable) <= _SHOWN_CHARACTERS else printable[: _SHOWN_CHARACTERS - 1] + "…"
