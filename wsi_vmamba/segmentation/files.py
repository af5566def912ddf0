"""What is left of a segmented slide: outlines that QuPath opens, and a label image as large as the slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from wsi_vmamba.dense import qupath
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.masks.outline import tissue_polygons
from wsi_vmamba.metrics.detections import Detections
from wsi_vmamba.prediction.heatmaps.ometiff import Painter, write_pyramid
from wsi_vmamba.segmentation.canvas import Canvas
from wsi_vmamba.segmentation.classes import ClassTable
from wsi_vmamba.text import printable
from wsi_vmamba.tissue.mask import TissueMask

#: The colour of tumour is QuPath's.
_TUMOUR = (200, 0, 0)


def geojson_path(folder: Path, slide_id: str) -> Path:
    """The outlines of a slide."""
    return folder / f"{slide_id}.geojson"


def image_path(folder: Path, slide_id: str) -> Path:
    """The label image of a slide."""
    return folder / f"{slide_id}.ome.tif"


def slides_in(folder: Path) -> dict[str, Path]:
    """The slides of which a folder holds outlines and label image, with the outlines."""
    return {
        path.stem: path
        for path in sorted(folder.glob("*.geojson"))
        if image_path(folder, path.stem).is_file()
    }


def detections_path(folder: Path, slide_id: str) -> Path:
    """The places of a slide that look most like a lesion, as `evaluate --detections` reads them."""
    return folder / "detections" / f"{slide_id}.csv"


def write_geojson(canvas: Canvas, classes: ClassTable, path: Path, *, slide_id: str) -> int:
    """Write a FeatureCollection with an annotation for each piece of each class, in level-0 pixels.

    Returns:
        How many pieces there are.

    Raises:
        StoreError: the file cannot be written.
    """
    features = [
        _feature(piece, canvas, classes, slide_id=slide_id, number=number, index=index)
        for number in range(1, len(classes.names) + 1)
        for index, piece in enumerate(_pieces(canvas, number), 1)
    ]
    write_atomic(path, qupath.collection(features))
    return len(features)


def _pieces(canvas: Canvas, number: int) -> Iterator[tuple[Any, float]]:
    """The pieces of a class, which touch by their edges, as polygons in level-0 pixels, with their mean certainty."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(
        (canvas.numbers == number).astype(np.uint8), connectivity=4
    )
    for piece in range(1, count):
        left, top, width, height = stats[piece, : cv2.CC_STAT_AREA].tolist()
        box = np.s_[top : top + height, left : left + width]
        mask = pieces[box] == piece
        (outline,) = tissue_polygons(TissueMask(mask=mask, downsample=1.0, mpp=1.0))
        corner = np.array([left, top])
        polygon = shapely.transform(outline, lambda points, corner=corner: (points + corner) * canvas.cell_l0)
        yield polygon, float(canvas.certainty[box][mask].mean()) / 255


def _feature(
    piece: tuple[Any, float], canvas: Canvas, classes: ClassTable, *, slide_id: str, number: int, index: int
) -> dict[str, Any]:
    """One piece as QuPath's annotation; its id depends on slide, class and number only."""
    polygon, certainty = piece
    name = classes.names[number - 1]
    return qupath.feature(
        polygon,
        kind="annotation",
        about=f"{printable(slide_id)}/segment/{printable(name)}/{index}",
        class_name=name,
        colour=_TUMOUR if number == classes.lesion else qupath.colour_of(number - 1),
        measurements={
            "area um2": polygon.area * canvas.mpp**2,
            "mean probability": round(certainty, 4),
        },
        name=f"{name} {index}",
    )


def write_label_image(canvas: Canvas, classes: ClassTable, path: Path, *, slide_id: str) -> None:
    """Write an 8-bit grey OME-TIFF with the size and resolution of the slide, whose values are numbers of classes.

    Raises:
        StoreError: the file cannot be written.
    """
    # The last row and column of what is painted stand for what lies beyond it.
    colours = np.pad(canvas.numbers, ((0, 1), (0, 1)))[:, :, None]
    named = ", ".join(f"{number}: {name}" for number, name in enumerate(classes.names, 1))
    outside = "background" if classes.outside == "background" else "not looked at"
    metadata = {"Name": f"{slide_id} classes", "Description": f"0: {outside}, {named}"}
    write_pyramid(
        Painter(colours=colours, patch_l0=canvas.cell_l0), path, width_l0=canvas.width_l0,
        height_l0=canvas.height_l0, mpp=canvas.mpp, metadata=metadata,
    )  # fmt: skip


def write_detections(found: Detections, path: Path) -> None:
    """Write probability,x,y of each detection, level-0 pixels.

    Raises:
        StoreError: the file cannot be written.
    """
    rows = (found.row(index) for index in range(len(found)))
    write_atomic(
        path, "".join(f"{probability!r},{x_l0:.0f},{y_l0:.0f}\n" for probability, x_l0, y_l0 in rows)
    )
