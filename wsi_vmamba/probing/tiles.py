"""What encoders are judged on: tiles in a folder per class, or the cells of pictures that masks label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.probing.groups import find_groups, read_groups
from wsi_vmamba.training.tiles import TileSet


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Where the cells of pictures lie.

    Attributes:
        pictures: the picture of each cell.
        places: (N, 2) int64, column and row of each on the grid of its picture.
        side_px: of a cell.
    """

    pictures: tuple[Path, ...]
    places: NDArray[np.int64]
    side_px: int


@dataclass(frozen=True, kw_only=True)
class ProbeTiles:
    """Tiles to judge encoders on.

    Attributes:
        folder: where they lie.
        files: of each tile, relative to ``folder``, as ``class/name.png``; of a cell with its place behind it.
        classes: names of the classes, sorted.
        labels: (N,) int64, the place of each tile's class in ``classes``.
        groups: (N,) patient or slide of each tile.
        sites: (N,) hospital or scanner of each; None where unknown.
        has_groups: False where each tile, or each picture, is a group of its own, because none were given.
        cells: where the tiles are cells of larger pictures; None where each is a file.
    """

    folder: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    sites: NDArray[np.str_] | None
    has_groups: bool
    cells: Cells | None = None

    def limited(self, most: int | None, *, seed: int) -> Self:
        """At most so many tiles of each class, drawn at random; in the same order."""
        if most is None:
            return self
        rng = np.random.default_rng(seed)
        members = [np.flatnonzero(self.labels == one) for one in range(len(self.classes))]
        kept = np.sort(np.concatenate([rng.permutation(places)[:most] for places in members]))
        cells = self.cells and replace(
            self.cells,
            pictures=tuple(self.cells.pictures[place] for place in kept),
            places=self.cells.places[kept],
        )
        return replace(
            self,
            files=tuple(self.files[place] for place in kept),
            labels=self.labels[kept],
            groups=self.groups[kept],
            sites=None if self.sites is None else self.sites[kept],
            cells=cells,
        )


def find_tiles(folder: Path, groups: Path | None = None) -> ProbeTiles:
    """List ``folder``/<class>/<tile> with the group of each.

    Args:
        folder: of the class folders.
        groups: CSV with the columns file and group, and site if it is known; by default groups.csv in ``folder``, if it
            is there.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: fewer than two classes, a class without tiles, or a CSV that does not name the tiles.
    """
    found = TileSet.find(folder)
    files = tuple(tile.path.relative_to(folder).as_posix() for tile in found.tiles)
    table = find_groups(folder, groups)
    origins = read_groups(table, files, folder=folder) if table else None
    return ProbeTiles(
        folder=folder,
        files=files,
        classes=found.classes,
        labels=np.array([tile.label for tile in found.tiles], dtype=np.int64),
        groups=np.array(origins.groups if origins else files),
        sites=np.array(origins.sites) if origins and origins.sites else None,
        has_groups=origins is not None,
    )
