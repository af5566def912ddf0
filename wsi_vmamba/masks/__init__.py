"""Tissue masks that people draw, edit and look at: read from files, written as GeoJSON, shown in a preview."""

from __future__ import annotations

from wsi_vmamba.masks.find import MASK_SUFFIXES, check_masks, find_mask
from wsi_vmamba.masks.outline import tissue_polygons
from wsi_vmamba.masks.preview import draw_preview
from wsi_vmamba.masks.read import read_mask
from wsi_vmamba.masks.write import tissue_geojson

__all__ = [
    "MASK_SUFFIXES",
    "check_masks",
    "draw_preview",
    "find_mask",
    "read_mask",
    "tissue_geojson",
    "tissue_polygons",
]
