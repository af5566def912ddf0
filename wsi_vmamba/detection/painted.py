"""A generated data set of nuclei in COCO's format, for tests, examples and a first look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from shapely import get_coordinates, get_exterior_ring

from wsi_vmamba.datasets.synthetic.nucleus_pictures import NUCLEI, NucleusPicture, paint_nuclei
from wsi_vmamba.detection.objects import Objects, cut_out, make_objects
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.masks.outline import mask_polygons

#: The two parts of a data set, with the seed of each one's pictures beside the caller's.
SPLITS = {"train": 0, "validation": 1}


def write_painted(
    folder: Path, *, training: int, validation: int, side_px: int, seed: int, density: float = 1.0
) -> None:
    """Write pictures of nuclei with their outlines: train.json, validation.json and a folder of PNG for each.

    Args:
        folder: where.
        training: pictures to learn from.
        validation: pictures to judge on.
        side_px: of each picture.
        seed: of all of them; equal seeds give equal bytes.
        density: how crowded they are, see `paint_nuclei`.
    """
    for (split, stream), count in zip(SPLITS.items(), (training, validation), strict=True):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            picture = paint_nuclei(2 * seed + stream, index, side_px=side_px, density=density)
            name = f"{index:05d}.png"
            _, content = cv2.imencode(".png", picture.image[..., ::-1])
            write_atomic(folder / split / name, content.tobytes())
            images.append({"id": index + 1, "file_name": name, "width": side_px, "height": side_px})
            for entry in _annotations(picture):
                annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **entry})
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(NUCLEI)]
        content_of = {"images": images, "categories": categories, "annotations": annotations}
        write_atomic(folder / f"{split}.json", json.dumps(content_of))


def objects_of(picture: NucleusPicture) -> Objects:
    """The nuclei of a picture with their boxes and masks."""
    cuts = [cut_out(picture.owner == number) for number in range(1, len(picture.kinds) + 1)]
    return make_objects([cut.box for cut in cuts], picture.kinds, cuts)


def _annotations(picture: NucleusPicture) -> list[dict[str, Any]]:
    objects = objects_of(picture)
    entries = []
    for label, cut in zip(objects.labels.tolist(), objects.cuts, strict=True):
        left, top, right, bottom = cut.box
        rings = [get_coordinates(get_exterior_ring(piece))[:-1] for piece in mask_polygons(cut.mask)]
        entries.append(
            {
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(np.count_nonzero(cut.mask)),
                "segmentation": [(ring + np.array([left, top])).ravel().tolist() for ring in rings],
                "iscrowd": 0,
            }
        )
    return entries
