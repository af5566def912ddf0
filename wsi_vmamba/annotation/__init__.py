"""Outlines of slides: ASAP XML and GeoJSON to polygons in level-0 pixels, masks at any resolution, ASAP XML out."""

from __future__ import annotations

from wsi_vmamba.annotation.asap import read_asap, write_asap
from wsi_vmamba.annotation.geojson import read_geojson
from wsi_vmamba.annotation.model import GROUPS, Annotation, Outline, Role
from wsi_vmamba.annotation.read import read_annotation

__all__ = [
    "GROUPS",
    "Annotation",
    "Outline",
    "Role",
    "read_annotation",
    "read_asap",
    "read_geojson",
    "write_asap",
]
