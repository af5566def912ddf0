"""What an annotation file says once it is read: outlines with their roles, and what was repaired or left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_vmamba.annotation.raster import draw


class Role(Enum):
    """Whether the inside of an outline belongs to what is annotated (tumour; of a mask, tissue) or is cut out of it."""

    INCLUDED = "included"
    EXCLUDED = "excluded"


#: Group and class names of CAMELYON16, CAMELYON17 and QuPath, in lower case.
GROUPS: Mapping[str, Role] = {
    "tumor": Role.INCLUDED,
    "tumour": Role.INCLUDED,
    "_0": Role.INCLUDED,
    "_1": Role.INCLUDED,
    "metastases": Role.INCLUDED,
    "exclusion": Role.EXCLUDED,
    "_2": Role.EXCLUDED,
    "normal": Role.EXCLUDED,
}


@dataclass(frozen=True, kw_only=True)
class Outline:
    """One annotated area.

    Attributes:
        name: its name in the file.
        group: its group or class in the file.
        role: what the group means.
        geometry: shapely Polygon or MultiPolygon, valid, level-0 pixels (x, y).
        known_as: which of the names that were asked for its group is, or is part of, in lower case; empty where its
            role is that of all others.
    """

    name: str
    group: str
    role: Role
    geometry: Any
    known_as: str = ""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The annotation of one slide; all lengths and areas are level-0 pixels.

    Attributes:
        outlines: the areas, in the order of the file.
        left_out: geometries of the areas whose group means nothing here: what is inside is not known.
        notes: what was repaired or left out, one sentence each, for the user to see.
    """

    outlines: tuple[Outline, ...]
    left_out: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def included(self) -> tuple[Any, ...]:
        """Geometries that belong to what is annotated, before the excluded ones are cut out."""
        return tuple(o.geometry for o in self.outlines if o.role is Role.INCLUDED)

    @property
    def excluded(self) -> tuple[Any, ...]:
        """Geometries to be cut out of it."""
        return tuple(o.geometry for o in self.outlines if o.role is Role.EXCLUDED)

    def region(self) -> Any:
        """Union of the included outlines minus the union of the excluded ones, as one shapely geometry."""
        return shapely.difference(shapely.union_all(self.included), shapely.union_all(self.excluded))

    def left_out_region(self) -> Any:
        """Union of the areas that were left out, as one shapely geometry."""
        return shapely.union_all(self.left_out)

    def area_l0(self) -> float:
        """Area of `region` in square level-0 pixels."""
        return float(shapely.area(self.region()))

    def rasterize(self, *, width_px: int, height_px: int, downsample: float) -> NDArray[np.bool_]:
        """Draw `region`, see `draw`."""
        return draw(self.region(), width_px=width_px, height_px=height_px, downsample=downsample)
