"""Labelled tiles on disk: a folder per class, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError, MissingDataError

#: Endings of tiles that are read.
TILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
#: Makes pictures of one size; called with the place of a tile and its pixels.
Prepare = Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]
#: Threads that decode the tiles of a batch.
_DECODERS = 4


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One labelled picture; ``label`` is the place of its class among the sorted names."""

    path: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """The tiles of one split, sorted by class and name.

    Attributes:
        folder: where they lie, each in a folder named after its class.
        classes: names of the classes, sorted.
        tiles: all of them.
        side_px: (height, width) of every tile.
    """

    folder: Path
    classes: tuple[str, ...]
    tiles: tuple[Tile, ...]
    side_px: tuple[int, int]

    @classmethod
    def find(cls, folder: Path) -> TileSet:
        """List ``folder``/<class>/<tile>; only the first tile is read.

        Raises:
            MissingDataError: there is no such folder.
            DatasetError: it holds fewer than two classes, or a class without tiles.
        """
        if not folder.is_dir():
            raise MissingDataError(
                f"no folder {folder.absolute()}; expected a folder of tiles for each class in it"
            )
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        tiles = [
            Tile(path=path, label=label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in TILE_SUFFIXES and path.name[0] != "."
        ]
        empty = sorted(set(classes) - {classes[tile.label] for tile in tiles})
        if len(classes) < 2 or empty:
            found = f"no tiles in {', '.join(empty)}" if empty else f"{len(classes)} class folder(s)"
            raise DatasetError(
                f"{folder}: expected a folder of tiles ({', '.join(sorted(TILE_SUFFIXES))}) for each of at least "
                f"two classes, found {found}"
            )
        height, width = read_tile(tiles[0].path).shape[:2]
        return cls(folder=folder, classes=tuple(classes), tiles=tuple(tiles), side_px=(height, width))

    def batches(
        self, order: Sequence[int], *, size: int, prepare: Prepare | None = None
    ) -> Iterator[tuple[list[Tile], NDArray[np.uint8]]]:
        """Yield tiles and their pixels (n, H, W, 3), at most ``size`` at a time, in the given order.

        Args:
            order: places among ``tiles``.
            size: of a batch.
            prepare: makes pictures of one size, called with the place of a tile and its pixels; None demands that
                they are of one size.

        Raises:
            DatasetError: a tile cannot be read or is of another size than the first.
        """
        with ThreadPoolExecutor(_DECODERS, "wsi-vmamba-tiles") as pool:
            for start in range(0, len(order), size):
                members = order[start : start + size]
                read = pool.map(lambda index: self._read(index, prepare), members)
                yield [self.tiles[index] for index in members], np.stack(list(read))

    def _read(self, index: int, prepare: Prepare | None) -> NDArray[np.uint8]:
        tile = self.tiles[index]
        pixels = read_tile(tile.path)
        if prepare is not None:
            return prepare(index, pixels)
        if pixels.shape[:2] != self.side_px:
            height, width = self.side_px
            raise DatasetError(
                f"{tile.path} has {pixels.shape[1]} x {pixels.shape[0]} px, the first tile {width} x {height}; "
                "all tiles must be of one size, at one resolution"
            )
        return pixels


def read_tile(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB (H, W, 3).

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except (OSError, cv2.error) as error:
        raise DatasetError(f"{path}: the tile cannot be read ({error})") from error
    if decoded is None:
        raise DatasetError(f"{path}: the tile cannot be decoded; replace or remove it")
    return np.ascontiguousarray(decoded[..., ::-1])


def mirror(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Exchange left and right of each of (n, H, W, 3) at random, for pictures that have an upside."""
    return np.stack([image[:, ::-1] if rng.integers(2) else image for image in pixels])


def turn(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn and mirror each of (n, H, W, 3) at random: tissue has no direction. Oblong tiles keep their axes."""
    square = pixels.shape[1] == pixels.shape[2]
    turned = []
    for image in pixels:
        quarter = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
        view = np.rot90(image, quarter)
        turned.append(view[:, ::-1] if rng.integers(2) else view)
    return np.stack(turned)
