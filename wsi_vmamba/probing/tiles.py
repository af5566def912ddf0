"""Labelled tiles with groups: a folder per class, and a CSV that says which patient or slide each tile is of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError
from wsi_vmamba.table import Row, read_table
from wsi_vmamba.training.tiles import TILE_SUFFIXES, Tile, TileSet

GROUPS_FILE = "groups.csv"
FILE, GROUP = "file", "group"
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class ProbeTiles:
    """Tiles to judge encoders on.

    Attributes:
        folder: where they lie.
        files: of each tile, relative to ``folder``, as ``class/name.png``.
        classes: names of the classes, sorted.
        labels: (N,) int64, the place of each tile's class in ``classes``.
        groups: (N,) patient or slide of each tile.
        has_groups: False where each tile is a group of its own, because none were given.
    """

    folder: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    has_groups: bool

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(np.unique(self.groups))


def find_tiles(folder: Path, groups: Path | None = None) -> ProbeTiles:
    """List ``folder``/<class>/<tile> with the group of each.

    Args:
        folder: of the class folders.
        groups: CSV with the columns file and group; by default groups.csv in ``folder``, if it is there.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: fewer than two classes, a class without tiles, or a CSV that does not name the tiles.
    """
    found = TileSet.find(folder)
    files = tuple(tile.path.relative_to(folder).as_posix() for tile in found.tiles)
    table = groups or (folder / GROUPS_FILE if (folder / GROUPS_FILE).is_file() else None)
    return ProbeTiles(
        folder=folder,
        files=files,
        classes=found.classes,
        labels=_labels(found.tiles),
        groups=np.array(_read_groups(table, folder, files) if table else files),
        has_groups=table is not None,
    )


def _labels(tiles: tuple[Tile, ...]) -> NDArray[np.int64]:
    return np.array([tile.label for tile in tiles], dtype=np.int64)


def _read_groups(path: Path, folder: Path, files: tuple[str, ...]) -> list[str]:
    """The group of each file: named by its path in the folder, or by its name alone where only one tile has it."""
    table = read_table(path, expects=(FILE, GROUP))
    table.refuse_near((FILE, GROUP))
    table.require((FILE, GROUP))
    named: dict[str, list[str]] = defaultdict(list)
    for file in files:
        named[Path(file).name].append(file)
    group_of: dict[str, str] = {}
    for row in table.rows:
        file = _file_of(row, folder, files=frozenset(files), named=named)
        if not row[GROUP]:
            raise DatasetError(f"{row.where}: {row[FILE]} has no group; name its patient or slide")
        if group_of.setdefault(file, row[GROUP]) != row[GROUP]:
            raise DatasetError(f"{row.where}: {file} is in two groups, {group_of[file]} and {row[GROUP]}")
    missing = [file for file in files if file not in group_of]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(files)} tiles have no line: {', '.join(missing[:_LISTED])}"
            f"{', ...' if len(missing) > _LISTED else ''}; name the group of each, its path in {folder} under {FILE}"
        )
    return [group_of[file] for file in files]


def _file_of(row: Row, folder: Path, *, files: frozenset[str], named: dict[str, list[str]]) -> str:
    text = row[FILE].replace("\\", "/").removeprefix("./")
    if text in files:
        return text
    there = named.get(text, [])
    if len(there) == 1:
        return there[0]
    if there:
        raise DatasetError(f"{row.where}: {text} is the name of {len(there)} tiles; write it as {there[0]}")
    known = Path(text).suffix.lower() in TILE_SUFFIXES
    raise DatasetError(
        f"{row.where}: there is no tile {text} in {folder}"
        + ("" if known else f"; tiles are {', '.join(sorted(TILE_SUFFIXES))}")
        + "; expected paths like "
        + min(files)
    )
