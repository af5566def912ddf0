"""Tiles through an encoder: read, resized if asked for, encoded in batches of one size, timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.probing.encoders import TileEncoder
from wsi_vmamba.training.tiles import read_tile

#: Tiles that are in memory at a time.
BATCH = 32
_READERS = 4


@dataclass(frozen=True, kw_only=True)
class TileFeatures:
    """Features of tiles.

    Attributes:
        values: (N, D) float64, in the order of the files.
        cpu_ms: CPU time of the encoder for one tile, in milliseconds, of all cores together.
        wall_ms: the time that passed meanwhile.
        sizes_px: (width, height) of the tiles, as encoded, with how many there are of each.
    """

    values: NDArray[np.float64]
    cpu_ms: float
    wall_ms: float
    sizes_px: dict[tuple[int, int], int]


def encode_files(
    encoder: TileEncoder, files: Sequence[Path], *, on_batch: Callable[[int], None] = lambda n: None
) -> TileFeatures:
    """Encode pictures.

    Args:
        encoder: what encodes.
        files: of the pictures, of any sizes.
        on_batch: is told after each batch how many tiles it had.

    Raises:
        DatasetError: a picture cannot be read.
        UsageError: a picture is too small for the encoder, or the encoder gives no features.
    """
    rows: dict[int, NDArray[np.float64]] = {}
    sizes: dict[tuple[int, int], int] = defaultdict(int)
    cpu_s = wall_s = 0.0
    for places, tiles in _batches(files, encoder.facts.resize_px):
        height, width = tiles.shape[1:3]
        if (width, height) not in sizes:
            encoder.check_size(height, width)
        cpu, wall = time.process_time(), time.perf_counter()
        found = encoder.encode(tiles)
        cpu_s, wall_s = cpu_s + time.process_time() - cpu, wall_s + time.perf_counter() - wall
        rows.update(zip(places, _checked(found, len(tiles), encoder.facts.label), strict=True))
        sizes[width, height] += len(tiles)
        on_batch(len(tiles))
    widths = sorted({len(row) for row in rows.values()})
    if len(widths) > 1:
        raise UsageError(
            f"encoder {encoder.facts.label} gives {' and '.join(map(str, widths))} features for tiles of different "
            "sizes; give it tiles of one size with @PX"
        )
    return TileFeatures(
        values=np.stack([rows[place] for place in range(len(files))]),
        cpu_ms=1000 * cpu_s / len(files),
        wall_ms=1000 * wall_s / len(files),
        sizes_px=dict(sizes),
    )


def resize_tile(pixels: NDArray[np.uint8], *, shorter_px: int) -> NDArray[np.uint8]:
    """Resize a picture so that its shorter side has ``shorter_px``: areas averaged down, bicubic up."""
    height, width = pixels.shape[:2]
    factor = shorter_px / min(height, width)
    if factor == 1:
        return pixels
    size = (max(shorter_px, round(width * factor)), max(shorter_px, round(height * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=how), dtype=np.uint8)


def _batches(files: Sequence[Path], resize_px: int | None) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Places of tiles and their pixels (n, H, W, 3), at most `BATCH` of one size."""

    def load(place: int) -> NDArray[np.uint8]:
        pixels = read_tile(files[place])
        return pixels if resize_px is None else resize_tile(pixels, shorter_px=resize_px)

    waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)
    with ThreadPoolExecutor(_READERS, "wsi-vmamba-tiles") as pool:
        for start in range(0, len(files), BATCH):
            places = range(start, min(start + BATCH, len(files)))
            for place, pixels in zip(places, pool.map(load, places), strict=True):
                same = waiting[pixels.shape]
                same.append((place, pixels))
                if len(same) == BATCH:
                    yield _stacked(waiting.pop(pixels.shape))
    for same in waiting.values():
        yield _stacked(same)


def _stacked(tiles: list[tuple[int, NDArray[np.uint8]]]) -> tuple[list[int], NDArray[np.uint8]]:
    return [place for place, _ in tiles], np.stack([pixels for _, pixels in tiles])


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
