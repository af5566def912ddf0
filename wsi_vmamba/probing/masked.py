"""Pictures with masks: cells of a grid, each labelled where one class covers most of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_vmamba.errors import DatasetError, MissingDataError
from wsi_vmamba.probing.groups import find_groups, read_groups
from wsi_vmamba.probing.tiles import Cells, ProbeTiles
from wsi_vmamba.table import read_table
from wsi_vmamba.training.tiles import TILE_SUFFIXES

VALUE, CLASS = "value", "class"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_LISTED = 5


def find_cells(
    images: Path,
    masks: Path,
    classes: Path,
    *,
    groups: Path | None,
    cell_px: int,
    cover: float,
) -> ProbeTiles:
    """List the cells of all pictures that a mask labels.

    Args:
        images: folder of pictures.
        masks: folder of masks of the same names (endings may differ) and sizes.
        classes: CSV with the columns value and class; values of a mask that it does not name are no class.
        groups: CSV with the columns file and group; by default groups.csv in ``images``; else each picture is a group.
        cell_px: side of a cell. What is left of a picture at its right and lower border is not used.
        cover: least share of a cell that one class must have for the cell to count.

    Raises:
        MissingDataError: a folder or a mask is not there.
        DatasetError: a mask cannot be read or is of another size, or fewer than two classes have cells.
    """
    pictures, class_of = _pictures(images), read_classes(classes)
    mask_of = _masks(masks, pictures)
    names = sorted(set(class_of.values()))
    files: list[str] = []
    owners: list[int] = []
    labels: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = []
    for number, picture in enumerate(pictures):
        of_cells, where = label_cells(
            _read_mask(mask_of[picture], picture), class_of, names, cell_px=cell_px, cover=cover
        )
        labels.append(of_cells)
        places.append(where)
        owners += [number] * len(of_cells)
        files += [f"{picture.relative_to(images).as_posix()}@{x * cell_px},{y * cell_px}" for x, y in where]
    label = np.concatenate(labels)
    _require_classes(label, names, images, cell_px=cell_px, cover=cover)
    table = find_groups(images, groups)
    own = [picture.relative_to(images).as_posix() for picture in pictures]
    origins = read_groups(table, own, folder=images) if table else None
    return ProbeTiles(
        folder=images,
        files=tuple(files),
        classes=tuple(names),
        labels=label,
        groups=np.array(origins.groups if origins else own)[owners],
        sites=np.array(origins.sites)[owners] if origins and origins.sites else None,
        has_groups=origins is not None,
        cells=Cells(
            pictures=tuple(pictures[owner] for owner in owners),
            places=np.concatenate(places),
            side_px=cell_px,
        ),
    )


def read_classes(path: Path) -> dict[int, str]:
    """Value of a mask -> class; colours (#rrggbb) are 65536 red + 256 green + blue.

    Raises:
        DatasetError: it is no such table.
    """
    table = read_table(path, expects=(VALUE, CLASS))
    table.refuse_near((VALUE, CLASS))
    table.require((VALUE, CLASS))
    found: dict[int, str] = {}
    for row in table.rows:
        text = row[VALUE]
        if not (_COLOUR.fullmatch(text) or (text.isascii() and text.isdigit())) or not row[CLASS]:
            raise DatasetError(
                f"{row.where}: expected a whole number or a colour like #ff0000 and a class, got {text!r} and "
                f"{row[CLASS]!r}"
            )
        value = int(text[1:], 16) if text.startswith("#") else int(text)
        if found.setdefault(value, row[CLASS]) != row[CLASS]:
            raise DatasetError(f"{row.where}: {text} is {found[value]} and {row[CLASS]}; keep one")
    if len(set(found.values())) < 2:
        raise DatasetError(
            f"{path}: expected at least two classes, got {', '.join(found.values()) or 'none'}"
        )
    return found


def label_cells(
    mask: NDArray[np.int64], class_of: Mapping[int, str], names: list[str], *, cell_px: int, cover: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes (n,) and places (n, 2), column and row, of the cells of a mask (H, W) that one class covers."""
    rows, columns = mask.shape[0] // cell_px, mask.shape[1] // cell_px
    whole = mask[: rows * cell_px, : columns * cell_px]
    shares = np.zeros((len(names), rows, columns))
    for value, name in class_of.items():
        of_cells = (whole == value).reshape(rows, cell_px, columns, cell_px).mean(axis=(1, 3))
        shares[names.index(name)] += of_cells
    best = shares.argmax(axis=0)
    row, column = np.nonzero(shares.max(axis=0, initial=0) >= cover)
    return best[row, column].astype(np.int64), np.stack([column, row], axis=1).astype(np.int64)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingDataError(f"no folder {folder.absolute()}; expected a folder of pictures")
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in TILE_SUFFIXES and path.name[0] != "."
    )
    if not found:
        raise DatasetError(f"{folder}: no pictures in it ({', '.join(sorted(TILE_SUFFIXES))})")
    return found


def _masks(folder: Path, pictures: list[Path]) -> dict[Path, Path]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in folder.rglob("*"):
        if path.suffix.lower() in TILE_SUFFIXES and path.name[0] != ".":
            by_stem[path.stem].append(path)
    missing = [picture.name for picture in pictures if picture.stem not in by_stem]
    if missing:
        raise MissingDataError(
            f"{folder.absolute()} has no mask for {len(missing)} of {len(pictures)} pictures: "
            f"{', '.join(missing[:_LISTED])}; a mask has the name of its picture"
        )
    for picture in pictures:
        if len(by_stem[picture.stem]) > 1:
            raise DatasetError(
                f"{folder} has several masks for {picture.name}: {', '.join(map(str, by_stem[picture.stem]))}; keep one"
            )
    return {picture: by_stem[picture.stem][0] for picture in pictures}


def _read_mask(path: Path, picture: Path) -> NDArray[np.int64]:
    """Values (H, W) of a mask: grey, the number of a palette's colour, or a colour as one number."""
    try:
        with Image.open(path) as mask, Image.open(picture) as pictured:
            if mask.size != pictured.size:
                raise DatasetError(
                    f"{path} has {mask.size[0]} x {mask.size[1]} px, its picture {pictured.size[0]} x "
                    f"{pictured.size[1]}; they must lie on each other"
                )
            values = np.asarray(mask.convert("RGB") if mask.mode == "RGBA" else mask)
    except OSError as error:
        raise DatasetError(f"{path} or {picture}: cannot be read ({error})") from error
    if values.ndim == 3 and values.shape[2] == 3:
        return np.asarray(values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]))
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DatasetError(f"{path}: expected a mask of grey values, a palette or RGB")
    return values.astype(np.int64)


def _require_classes(
    labels: NDArray[np.int64], names: list[str], images: Path, *, cell_px: int, cover: float
) -> None:
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise DatasetError(
            f"{images}: no cell of {cell_px} px has {cover:.0%} of {', '.join(empty)}; check the values in the CSV of "
            "classes against the masks, or take smaller cells (--cell-px) or a smaller --cover"
        )
