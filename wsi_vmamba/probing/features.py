"""Tiles and cells through an encoder: read, resized if asked for, encoded, timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.probing.encoders import TileEncoder
from wsi_vmamba.probing.tiles import Cells
from wsi_vmamba.training.tiles import read_tile

#: Tiles that are in memory at a time.
BATCH = 32
_READERS = 4

#: Is told how many more tiles are encoded.
OnBatch = Callable[[int], None]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TileFeatures:
    """Features of tiles.

    Attributes:
        values: (N, D) float64, in the order of the tiles.
        cpu_ms: CPU time of the encoder for one tile, in milliseconds, of all cores together.
        wall_ms: the time that passed meanwhile.
        sizes_px: (width, height) of the tiles, as encoded, with how many there are of each.
        shrunk: pixels of the file per pixel that was encoded; None where it is not the same for all tiles.
    """

    values: NDArray[np.float64]
    cpu_ms: float
    wall_ms: float
    sizes_px: dict[tuple[int, int], int]
    shrunk: float | None


def encode_files(
    encoder: TileEncoder, files: Sequence[Path], *, on_batch: OnBatch = lambda n: None
) -> TileFeatures:
    """Encode pictures of any sizes, each as one tile.

    Raises:
        DatasetError: a picture cannot be read.
        UsageError: a tile is too small for the encoder, or it gives no features.
    """
    collected = _Collected(encoder, on_batch)
    for places, tiles, shrunk in _batches(files, encoder.facts.resize_px):
        height, width = tiles.shape[1:3]
        if (width, height) not in collected.sizes_px:
            encoder.check_size(height, width)
        collected.add(places, lambda tiles=tiles: encoder.encode(tiles), (width, height))  # type: ignore[misc]
        collected.shrunk.update(shrunk)
    return collected.finish(len(files))


def resize_tile(pixels: Pixels, *, shorter_px: int) -> Pixels:
    """Resize a picture so that its shorter side has ``shorter_px``: areas averaged down, bicubic up."""
    height, width = pixels.shape[:2]
    factor = shorter_px / min(height, width)
    return _resized(
        pixels,
        height_px=max(shorter_px, round(height * factor)),
        width_px=max(shorter_px, round(width * factor)),
    )


def _resized(pixels: Pixels, *, height_px: int, width_px: int) -> Pixels:
    if (height_px, width_px) == pixels.shape[:2]:
        return pixels
    how = cv2.INTER_AREA if height_px < len(pixels) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=how), dtype=np.uint8)


def encode_cells(encoder: TileEncoder, cells: Cells, *, on_batch: OnBatch = lambda n: None) -> TileFeatures:
    """Encode cells: a backbone sees the whole picture in one pass and its tokens are averaged over each cell.

    Raises:
        DatasetError: a picture cannot be read.
        UsageError: a cell is too small for the encoder or no whole number of its tokens.
    """
    side = encoder.facts.resize_px or cells.side_px
    encoder.check_size(side, side)
    collected = _Collected(encoder, on_batch)
    collected.shrunk.add(cells.side_px / side)
    members: dict[Path, list[int]] = defaultdict(list)
    for place, picture in enumerate(cells.pictures):
        members[picture].append(place)
    for picture, places in members.items():
        pixels = _whole_cells(read_tile(picture), cells.side_px, side)
        column, row = cells.places[places].T
        if encoder.encode_map is not None:

            def pooled(pixels: Pixels = pixels, at: tuple[Any, Any] = (row, column)) -> NDArray[Any]:
                found: NDArray[Any] = encoder.mean_of_cells(pixels, cell_px=side)[at]
                return found

            collected.add(places, pooled, (side, side))
            continue
        cut = pixels.reshape(len(pixels) // side, side, -1, side, 3)[row, :, column]
        for start in range(0, len(places), BATCH):
            part = np.ascontiguousarray(cut[start : start + BATCH])
            collected.add(
                places[start : start + BATCH],
                lambda part=part: encoder.encode(part),  # type: ignore[misc]
                (side, side),
            )
    return collected.finish(len(cells.pictures))


def _whole_cells(pixels: Pixels, cell_px: int, side_px: int) -> Pixels:
    """The part of a picture that is whole cells, resized so that each has ``side_px``."""
    rows, columns = len(pixels) // cell_px, pixels.shape[1] // cell_px
    whole = pixels[: rows * cell_px, : columns * cell_px]
    return np.ascontiguousarray(_resized(whole, height_px=rows * side_px, width_px=columns * side_px))


class _Collected:
    """Features as they come, in any order, with the time they took."""

    def __init__(self, encoder: TileEncoder, on_batch: OnBatch) -> None:
        self._label = encoder.facts.label
        self._on_batch = on_batch
        self._rows: dict[int, NDArray[np.float64]] = {}
        self._cpu_s = self._wall_s = 0.0
        self.sizes_px: dict[tuple[int, int], int] = defaultdict(int)
        self.shrunk: set[float] = set()

    def add(self, places: Sequence[int], encode: Callable[[], object], size_px: tuple[int, int]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        found = encode()
        self._cpu_s += time.process_time() - cpu
        self._wall_s += time.perf_counter() - wall
        self._rows.update(zip(places, _checked(found, len(places), self._label), strict=True))
        self.sizes_px[size_px] += len(places)
        self._on_batch(len(places))

    def finish(self, n_tiles: int) -> TileFeatures:
        widths = sorted({len(row) for row in self._rows.values()})
        if len(widths) > 1:
            raise UsageError(
                f"encoder {self._label} gives {' and '.join(map(str, widths))} features for tiles of different sizes; "
                "give it tiles of one size with @PX"
            )
        return TileFeatures(
            values=np.stack([self._rows[place] for place in range(n_tiles)]),
            cpu_ms=1000 * self._cpu_s / n_tiles,
            wall_ms=1000 * self._wall_s / n_tiles,
            sizes_px=dict(self.sizes_px),
            shrunk=self.shrunk.pop() if len(self.shrunk) == 1 else None,
        )


def _batches(files: Sequence[Path], resize_px: int | None) -> Iterator[tuple[list[int], Pixels, set[float]]]:
    """Places of tiles, their pixels (n, H, W, 3), at most `BATCH` of one size, and by how much they were shrunk."""

    def load(place: int) -> tuple[int, Pixels, float]:
        pixels = read_tile(files[place])
        if resize_px is None:
            return place, pixels, 1.0
        return place, resize_tile(pixels, shorter_px=resize_px), min(pixels.shape[:2]) / resize_px

    waiting: dict[tuple[int, ...], list[tuple[int, Pixels, float]]] = defaultdict(list)
    with ThreadPoolExecutor(_READERS, "wsi-vmamba-tiles") as pool:
        for start in range(0, len(files), BATCH):
            for tile in pool.map(load, range(start, min(start + BATCH, len(files)))):
                same = waiting[tile[1].shape]
                same.append(tile)
                if len(same) == BATCH:
                    yield _stacked(waiting.pop(tile[1].shape))
    for same in waiting.values():
        yield _stacked(same)


def _stacked(tiles: list[tuple[int, Pixels, float]]) -> tuple[list[int], Pixels, set[float]]:
    places, pixels, shrunk = zip(*tiles, strict=True)
    return list(places), np.stack(pixels), set(shrunk)


def _checked(found: object, n_tiles: int, label: str) -> NDArray[np.float64]:
    """Features as (n, D) finite numbers, also of a function that gives tensors."""
    detach = getattr(found, "detach", None)
    values = np.asarray(found if detach is None else detach().cpu().float().numpy(), dtype=np.float64)
    if values.ndim != 2 or len(values) != n_tiles or values.shape[1] == 0:
        raise UsageError(
            f"encoder {label} gave {values.shape} for {n_tiles} tiles; expected one row of features for each"
        )
    if not np.isfinite(values).all():
        raise UsageError(f"encoder {label} gave features that are not finite numbers; look at its precision")
    return values
