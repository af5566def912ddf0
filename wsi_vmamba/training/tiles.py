"""Labelled tiles or clips on disk: a folder per class, and batches of them as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError, MissingDataError
from wsi_vmamba.training.clips import CLIP_KINDS, find_clips, read_clip
from wsi_vmamba.training.pictures import TILE_SUFFIXES, read_tile

__all__ = ["TILE_SUFFIXES", "Prepare", "Tile", "TileSet", "mirror", "read_tile", "turn"]

#: Makes pictures of one size; called with the place of a tile and its pixels.
Prepare = Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]
#: Threads that decode the tiles of a batch.
_DECODERS = 4


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One labelled picture or clip; ``label`` is the place of its class among the sorted names."""

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
        clip_frames: frames taken of each, where they are clips; a clip is then a picture of so many times three
            channels.
    """

    folder: Path
    classes: tuple[str, ...]
    tiles: tuple[Tile, ...]
    side_px: tuple[int, int]
    clip_frames: int | None = None

    @classmethod
    def find(cls, folder: Path, *, clip_frames: int | None = None) -> TileSet:
        """List ``folder``/<class>/<tile>; only the first tile is read.

        Args:
            folder: with a folder for each class in it.
            clip_frames: look for clips, not for pictures, and take so many frames of each.

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
            for path in (find_clips(folder / name) if clip_frames else _find_tiles(folder / name))
        ]
        empty = sorted(set(classes) - {classes[tile.label] for tile in tiles})
        if len(classes) < 2 or empty:
            missing = f"no {'clips' if clip_frames else 'tiles'} in {', '.join(empty)}"
            found = missing if empty else f"{len(classes)} class folder(s)"
            wanted = CLIP_KINDS if clip_frames else f"tiles ({', '.join(sorted(TILE_SUFFIXES))})"
            raise DatasetError(
                f"{folder}: expected a folder of {wanted} for each of at least two classes, found {found}"
            )
        height, width = _read(tiles[0].path, clip_frames).shape[:2]
        return cls(
            folder=folder,
            classes=tuple(classes),
            tiles=tuple(tiles),
            side_px=(height, width),
            clip_frames=clip_frames,
        )

    def batches(
        self, order: Sequence[int], *, size: int, prepare: Prepare | None = None
    ) -> Iterator[tuple[list[Tile], NDArray[np.uint8]]]:
        """Yield tiles and their pixels (n, H, W, 3), of clips (n, H, W, 3 T), at most ``size`` at a time, in order.

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
        pixels = _read(tile.path, self.clip_frames)
        if prepare is not None:
            return prepare(index, pixels)
        if pixels.shape[:2] != self.side_px:
            height, width = self.side_px
            raise DatasetError(
                f"{tile.path} has {pixels.shape[1]} x {pixels.shape[0]} px, the first tile {width} x {height}; "
                "all tiles must be of one size, at one resolution"
            )
        return pixels


def _find_tiles(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in TILE_SUFFIXES and path.name[0] != ".":
            yield path


def _read(path: Path, clip_frames: int | None) -> NDArray[np.uint8]:
    return read_clip(path, frames=clip_frames) if clip_frames else read_tile(path)


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
