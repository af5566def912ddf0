"""Layers as small pictures, one pixel per patch, with the level-0 rectangle that they cover exactly."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.geometry import grid_rectangle_l0
from wsi_vmamba.view.patches import Floats, PatchColumn, PatchTable

_STEPS = 65535
#: Okabe and Ito, without black.
_CLASS_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
#: The golden section: hues that are never close to the ones before.
_GOLDEN = 0.618034
#: Patches this far apart would make a picture of more pixels than any slide has patches.
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A layer: what it is as JSON, and its picture as PNG."""

    about: dict[str, Any]
    png: bytes


def scalar_raster(table: PatchTable, column: PatchColumn) -> Raster:
    """One value per patch, in 16 bits: red and green of each pixel. A patch without a value is transparent."""
    known = np.isfinite(column.values)
    low, high = (
        (float(column.values[known].min()), float(column.values[known].max())) if known.any() else (0.0, 0.0)
    )
    steps = np.zeros(len(column.values), dtype=np.uint16)
    if high > low:
        steps[known] = np.rint((column.values[known] - low) / (high - low) * _STEPS)
    colours = np.zeros((len(steps), 4), dtype=np.uint8)
    colours[:, 0], colours[:, 1], colours[:, 3] = steps >> 8, steps & 0xFF, np.where(known, 255, 0)
    return Raster(
        about={
            "id": column.id, "title": column.title, "kind": "scalar", "quantity": column.quantity, "unit": "",
            **_place(table), "encoding": {"kind": "rg16", "low": low, "high": high},
            "range": {"low": column.low, "high": column.high}, "midpoint": None, "threshold": column.threshold,
        },
        png=_png(table, colours),
    )  # fmt: skip


def colour_raster(table: PatchTable, *, name: str, title: str, rgb: Floats, more: dict[str, Any]) -> Raster:
    """One colour per patch, from values (N, 3) in 0-1."""
    colours = np.full((len(rgb), 4), 255, dtype=np.uint8)
    colours[:, :3] = np.rint(rgb * 255)
    about = {"id": name, "title": title, "kind": "rgb", **_place(table), "encoding": {"kind": "rgb"}, **more}
    return Raster(about=about, png=_png(table, colours))


def class_raster(
    table: PatchTable,
    values: NDArray[np.int64],
    *,
    names: Sequence[str],
    name: str,
    title: str,
    notes: Sequence[str],
) -> Raster:
    """One class per patch, from their numbers (N,): red and green of each pixel."""
    colours = np.zeros((len(values), 4), dtype=np.uint8)
    colours[:, 0], colours[:, 1], colours[:, 3] = values >> 8, values & 0xFF, 255
    classes = [{"value": n, "name": each, "colour": class_colour(n)} for n, each in enumerate(names)]
    about = {
        "id": name, "title": title, "kind": "classes", **_place(table), "encoding": {"kind": "classes"},
        "classes": classes, "notes": list(notes),
    }  # fmt: skip
    return Raster(about=about, png=_png(table, colours))


def class_colour(number: int) -> str:
    """Colour of a class: the first ones are apart for colour-blind people too, more go around the circle of hues."""
    if number < len(_CLASS_COLOURS):
        return _CLASS_COLOURS[number]
    red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1.0, 0.35 + 0.1 * (number % 4), 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _corner(table: PatchTable) -> tuple[int, int, int, int]:
    """First column and row, and how many of both, of the picture."""
    first, last = table.grid.min(axis=0), table.grid.max(axis=0)
    columns, rows = (int(n) + 1 for n in last - first)
    if columns * rows > _MOST_PIXELS:
        raise UsageError(
            f"the patches lie on a grid of {columns} x {rows}, expected at most {_MOST_PIXELS} places"
        )
    return int(first[0]), int(first[1]), columns, rows


def _place(table: PatchTable) -> dict[str, Any]:
    column, row, columns, rows = _corner(table)
    x, y, width, height = grid_rectangle_l0(
        column=column, row=row, columns=columns, rows=rows, patch_l0=table.patch_l0
    )
    return {
        "rectangle_l0": {"x": x, "y": y, "width": width, "height": height},
        "columns": columns,
        "rows": rows,
        "patch_l0": table.patch_l0,
        "n_patches": len(table.grid),
    }


def _png(table: PatchTable, colours: NDArray[np.uint8]) -> bytes:
    column, row, columns, rows = _corner(table)
    picture = np.zeros((rows, columns, 4), dtype=np.uint8)
    picture[table.grid[:, 1] - row, table.grid[:, 0] - column] = colours
    return bytes(imagecodecs.png_encode(picture))
