"""The CSV that says which patient or slide, and which site, each tile or picture is of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import DatasetError
from wsi_vmamba.table import Row, read_table

#: Its name where it is looked for, and its columns; the last may be missing.
GROUPS_FILE = "groups.csv"
FILE, GROUP, SITE = "file", "group", "site"
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Of each file its group (patient or slide), and its site (hospital or scanner) where the CSV has that column."""

    groups: list[str]
    sites: list[str] | None


def find_groups(folder: Path, given: Path | None) -> Path | None:
    """The CSV that was given, else the one in the folder; None where there is none."""
    there = folder / GROUPS_FILE
    return given or (there if there.is_file() else None)


def read_groups(path: Path, files: Sequence[str], *, folder: Path) -> Origins:
    """Read the group of each file: named by its path in ``folder``, or by its name alone where only one has it.

    Raises:
        DatasetError: a file has no line, no group or two, or a line names a file that is not there.
    """
    table = read_table(path, expects=(FILE, GROUP))
    table.refuse_near((FILE, GROUP, SITE))
    table.require((FILE, GROUP))
    names = _Names(files, folder)
    origin_of: dict[str, tuple[str, str]] = {}
    for row in table.rows:
        file = names.find(row)
        origin = (row[GROUP], row.get(SITE))
        if not row[GROUP]:
            raise DatasetError(f"{row.where}: {row[FILE]} has no group; name its patient or slide")
        if SITE in table.columns and not row[SITE]:
            raise DatasetError(f"{row.where}: {row[FILE]} has no site; name it, or leave the column out")
        if origin_of.setdefault(file, origin) != origin:
            raise DatasetError(
                f"{row.where}: {file} is in two groups or sites, {_words(origin_of[file])} and {_words(origin)}"
            )
    missing = [file for file in files if file not in origin_of]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(files)} files have no line: {', '.join(missing[:_LISTED])}"
            f"{', ...' if len(missing) > _LISTED else ''}; name the group of each, its path in {folder} under {FILE}"
        )
    origins = [origin_of[file] for file in files]
    sites = [site for _, site in origins] if SITE in table.columns else None
    return Origins(groups=[group for group, _ in origins], sites=sites)


def _words(origin: tuple[str, str]) -> str:
    return " of ".join(filter(None, origin))


class _Names:
    """Finds the file that a line means."""

    def __init__(self, files: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self._files = frozenset(files)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self._by_name[Path(file).name].append(file)

    def find(self, row: Row) -> str:
        text = row[FILE].replace("\\", "/").removeprefix("./")
        if text in self._files:
            return text
        alike = self._by_name.get(text, [])
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise DatasetError(
                f"{row.where}: {text} is the name of {len(alike)} files; write it as {alike[0]}"
            )
        raise DatasetError(
            f"{row.where}: there is no {text} in {self._folder}; expected paths like {min(self._files)}"
        )
