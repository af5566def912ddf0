"""Data sets in COCO's format: one JSON file of pictures, classes and objects, checked piece by piece, and a folder."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.annotation.raster import fill_even_odd
from wsi_vmamba.detection.objects import Cut, Objects, cut_out, make_objects
from wsi_vmamba.detection.run_lengths import mask_of_runs
from wsi_vmamba.errors import DatasetError, MissingDataError
from wsi_vmamba.training.tiles import read_tile


@dataclass(frozen=True, kw_only=True)
class CocoPicture:
    """One picture and what the file says of its objects; masks are drawn when they are asked for."""

    path: Path
    width_px: int
    height_px: int
    annotations: tuple[Mapping[str, Any], ...]
    source: str

    def pixels(self) -> NDArray[np.uint8]:
        """RGB (height_px, width_px, 3).

        Raises:
            DatasetError: it cannot be read, or has another size than the file says.
        """
        pixels = read_tile(self.path)
        if pixels.shape[:2] != (self.height_px, self.width_px):
            raise DatasetError(
                f"{self.path} has {pixels.shape[1]} x {pixels.shape[0]} px, {self.source} says {self.width_px} x "
                f"{self.height_px}; give the picture that was annotated, or correct width and height in the file if "
                "the outlines are in the pixels of this one"
            )
        return pixels


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """A data set: the names of its classes and its pictures, in the order of the file."""

    source: Path
    classes: tuple[str, ...]
    pictures: tuple[CocoPicture, ...]
    places: Mapping[int, int]

    def describe(self) -> str:
        """What it is made of, so that it shows when that changes: the file, and the sizes of the pictures.

        Raises:
            DatasetError: one of them cannot be read.
        """
        try:
            content = hashlib.sha256(self.source.read_bytes())
            for picture in self.pictures:
                content.update(f"{picture.path.name} {picture.path.stat().st_size}\n".encode())
        except OSError as error:
            raise DatasetError(f"{error.filename} cannot be read ({error.strerror})") from error
        return f"{len(self.pictures)}, {content.hexdigest()[:12]}"

    def objects(self, picture: CocoPicture) -> Objects:
        """The objects of a picture, masks drawn: a pixel belongs to an outline where its centre does.

        Some have a box without area or no pixel at all, as in COCO's own files: they are not learned from, and in
        average precision they count among the known, as COCO has it, though no box can overlap such a box.

        Raises:
            DatasetError: a mask cannot be drawn.
        """
        found = [_object(one, picture) for one in picture.annotations]
        return make_objects(
            [box for box, _ in found],
            [self.places[one["category_id"]] for one in picture.annotations],
            [cut for _, cut in found],
            crowd=[bool(one.get("iscrowd", 0)) for one in picture.annotations],
        )


def read_coco(file: str | Path, pictures: str | Path) -> CocoSet:
    """Read a data set; every part of the file is checked, pictures are looked for but not read.

    Args:
        file: JSON with ``images``, ``categories`` and ``annotations``.
        pictures: folder that ``file_name`` of the images is relative to.

    Raises:
        MissingDataError: the file or pictures are not there.
        DatasetError: it is not in COCO's format; what is wrong is named.
    """
    path, folder = Path(file), Path(pictures)
    content = _load(path)
    classes = [_fields(one, {"id": int, "name": str}, "category", path) for one in content["categories"]]
    places = _numbered([one["id"] for one in classes], "category", path)
    images = [
        _fields(one, {"id": int, "file_name": str, "width": int, "height": int}, "image", path)
        for one in content["images"]
    ]
    known = _numbered([one["id"] for one in images], "image", path)
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for one in content["annotations"]:
        checked = _fields(one, {"image_id": int, "category_id": int, "bbox": list}, "annotation", path)
        _check_annotation(checked, known, places, path)
        of_image[checked["image_id"]].append(checked)
    found = tuple(
        CocoPicture(
            path=folder / one["file_name"],
            width_px=one["width"],
            height_px=one["height"],
            annotations=tuple(of_image[one["id"]]),
            source=str(path),
        )
        for one in images
    )
    missing = [picture.path for picture in found if not picture.path.is_file()]
    if missing:
        raise MissingDataError(
            f"{path} names {len(found)} pictures, {len(missing)} of them are not there, such as "
            f"{missing[0].absolute()}; put them into {folder.absolute()}, or name the folder that they are in "
            "(train_pictures, validation_pictures)"
        )
    if not found or not classes:
        raise DatasetError(f"{path}: expected at least one image and one category")
    return CocoSet(source=path, classes=tuple(one["name"] for one in classes), pictures=found, places=places)


def _load(path: Path) -> Mapping[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingDataError(f"no file {path.absolute()}; expected a data set in COCO's JSON") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error
    keys = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DatasetError(f"{path}: expected an object with the lists {', '.join(keys)}, as COCO has it")
    return content


def _fields(one: Any, kinds: Mapping[str, type], what: str, path: Path) -> Mapping[str, Any]:
    """One entry of a list, whose fields are there and of their kinds."""
    for name, kind in kinds.items():
        value = one.get(name) if isinstance(one, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DatasetError(
                f"{path}: every {what} needs {', '.join(kinds)}; {name} is {value!r} in {_shown(one)}"
            )
    checked: Mapping[str, Any] = one
    return checked


def _numbered(ids: Sequence[int], what: str, path: Path) -> dict[int, int]:
    places = {number: place for place, number in enumerate(ids)}
    if len(places) < len(ids):
        twice = next(number for number in ids if ids.count(number) > 1)
        raise DatasetError(
            f"{path}: the {what} id {twice} is there twice; give each {what} an id of its own, and correct "
            f"the {what}_id of the annotations that mean it"
        )
    return places


def _check_annotation(
    one: Mapping[str, Any], images: Mapping[int, int], classes: Mapping[int, int], path: Path
) -> None:
    for name, known in (("image_id", images), ("category_id", classes)):
        if one[name] not in known:
            raise DatasetError(f"{path}: {name} {one[name]} of {_shown(one)} is not in the file")
    box = one["bbox"]
    if len(box) != 4 or not all(_is_number(value) for value in box) or min(box[2:]) < 0:
        raise DatasetError(
            f"{path}: bbox must be [left, top, width, height] with a width and height of 0 or more, got {box} in "
            f"{_shown(one)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _shown(one: Any, longest: int = 120) -> str:
    text = json.dumps(one)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _object(one: Mapping[str, Any], picture: CocoPicture) -> tuple[tuple[float, ...], Cut]:
    """Box and mask of an annotation."""
    left, top, width, height = (float(value) for value in one["bbox"])
    outline = one.get("segmentation")
    draw: Callable[[Any, CocoPicture], Cut] | None = (
        _of_polygons if isinstance(outline, list) else _of_runs if isinstance(outline, dict) else None
    )
    if draw is None:
        raise DatasetError(
            f"{picture.source}: segmentation must be polygons or run lengths, got {_shown(outline)} in {_shown(one)}; "
            "a detector with masks cannot learn from boxes alone"
        )
    try:
        cut = draw(outline, picture)
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{picture.source}: {error}; in {_shown(one)}") from error
    return (left, top, left + width, top + height), cut


def _of_polygons(outline: list[Any], picture: CocoPicture) -> Cut:
    """The union of polygons [x, y, x, y, ...], clipped to the picture."""
    rings = [np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in outline]
    if not rings or any(len(ring) < 3 or not np.isfinite(ring).all() for ring in rings):
        raise ValueError("a polygon needs at least three points, finite numbers")
    points = np.concatenate(rings)
    low = np.clip(np.floor(points.min(axis=0)), 0, [picture.width_px, picture.height_px]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)), 0, [picture.width_px, picture.height_px]).astype(int)
    width, height = (high - low).tolist()
    mask = np.zeros((height, width), dtype=np.bool_)
    for ring in rings:
        closed = np.concatenate([ring, ring[:1]]) - low
        mask |= fill_even_odd([closed], width_px=width, height_px=height)
    return cut_out(mask, x_px=int(low[0]), y_px=int(low[1]))


def _of_runs(outline: dict[str, Any], picture: CocoPicture) -> Cut:
    size = outline.get("size")
    if size != [picture.height_px, picture.width_px]:
        raise ValueError(
            f"size of run lengths must be [height, width] = {[picture.height_px, picture.width_px]}, got {size}"
        )
    mask = mask_of_runs(outline["counts"], width_px=picture.width_px, height_px=picture.height_px)
    return cut_out(mask)
