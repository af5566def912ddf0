"""Files of a synthetic slide: pyramidal BigTIFF and ASAP XML, both written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.datasets.synthetic.anatomy import Lesion
from wsi_vmamba.datasets.synthetic.spec import MPP
from wsi_vmamba.durable import write_atomic

#: Side of the JPEG tiles.
TILE_PX = 256


def write_slide(
    path: Path,
    rgb: NDArray[np.uint8],
    *,
    level_factor: int,
    jpeg_quality: int,
    tile_px: int = TILE_PX,
    mpp: float = MPP,
) -> None:
    """Write RGB pixels as a tiled JPEG BigTIFF with a pyramid down to about one tile, ``mpp`` um per pixel."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=True) as tiff:
        level, factor = rgb, 1
        while True:
            pixels_per_cm = 10_000 / (mpp * factor)
            tiff.write(
                level,
                tile=(tile_px, tile_px),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": jpeg_quality},
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=0 if factor == 1 else 1,
                metadata=None,
                software="wsi-vmamba synthetic",
            )
            if max(level.shape[:2]) <= 2 * TILE_PX:
                break
            factor *= level_factor
            size = (max(level.shape[1] // level_factor, 1), max(level.shape[0] // level_factor, 1))
            level = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    write_atomic(path, buffer.getvalue())


def write_asap(path: Path, lesions: Sequence[Lesion]) -> None:
    """Write lesion outlines as ASAP XML, level-0 pixels, group "Tumor"."""
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    for rank, lesion in enumerate(lesions):
        polygon = ElementTree.SubElement(
            annotations,
            "Annotation",
            {"Name": f"{lesion.size}_{rank}", "Type": "Polygon", "PartOfGroup": "Tumor", "Color": "#F4FA58"},
        )
        coordinates = ElementTree.SubElement(polygon, "Coordinates")
        for order, (x, y) in enumerate(lesion.polygon_l0):
            ElementTree.SubElement(
                coordinates, "Coordinate", {"Order": str(order), "X": f"{x:.1f}", "Y": f"{y:.1f}"}
            )
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    group = ElementTree.SubElement(
        groups, "Group", {"Name": "Tumor", "PartOfGroup": "None", "Color": "#64FE2E"}
    )
    ElementTree.SubElement(group, "Attributes")
    ElementTree.indent(root)
    write_atomic(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
