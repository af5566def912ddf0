"""The labels of a manifest: 0 and 1, or the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wsi_vmamba.cells import is_binary, is_number, loose, read_label
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.table import Row, Table

_HOW = (
    "; classes have names (luad, lusc), and of numbered ones every number is listed in its order: --class 0 --class 1 "
    "--class 2"
)


class Label(NamedTuple):
    """The label of a slide: its number, None where unknown, and its class's name where labels are names."""

    number: int | None
    name: str = ""


def read_labels(
    table: Table, *, positive: str | None = None, classes: Sequence[str] = ()
) -> dict[int, Label]:
    """Read the column ``label`` of a manifest, by line.

    Args:
        table: the manifest.
        positive: name of the positive class of two; every other name is then 0.
        classes: names of all classes in their order; unless given, names found are taken in the order of the alphabet.

    Raises:
        DatasetError: naming the line: a label is neither 0 nor 1 where others are, is none of ``classes``, or two
            names differ in case or blanks only; or a class has no slide.
    """
    rows = [row for row in table.rows if row.get("label")]
    found = {row["label"] for row in rows}
    if positive is not None or (not classes and _all_binary(found)):
        return {
            row.line: Label(read_label(row.cell("label"), positive=positive, error=DatasetError))
            for row in rows
        }
    if not classes:
        _refuse_numbers(rows)
        _refuse_near(rows)
    names = _checked(classes, found, table) if classes else tuple(sorted(found))
    return {row.line: _named(row, names) for row in rows}


def _all_binary(found: set[str]) -> bool:
    return all(is_binary(name) for name in found)


def _named(row: Row, names: tuple[str, ...]) -> Label:
    name = row["label"]
    if name not in names:
        raise DatasetError(
            f"{row.where}: label must be one of {', '.join(names)}, or empty where unknown, got {name!r}"
        )
    return Label(names.index(name), name)


def _refuse_numbers(rows: Sequence[Row]) -> None:
    """Numbers among names, or beyond 0 and 1, may be a slip: they are classes only where the user says so."""
    if any(is_number(row["label"]) or is_binary(row["label"]) for row in rows):
        for row in rows:
            read_label(row.cell("label"), positive=None, error=DatasetError, remedy=_HOW)


def _refuse_near(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(loose(row["label"]), row)
        if other["label"] != row["label"]:
            raise DatasetError(
                f"{row.where}: label {row['label']!r} and {other['label']!r} (line {other.line}) differ in case or "
                "blanks only; write both alike"
            )


def _checked(classes: Sequence[str], found: set[str], table: Table) -> tuple[str, ...]:
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise DatasetError(f"two or more different classes are to be named, got {', '.join(classes)}")
    absent = [name for name in classes if name not in found]
    if absent:
        raise DatasetError(
            f"{table.path}: no slide is labelled {', '.join(absent)}; labels present: {', '.join(sorted(found)[:20])}"
        )
    return tuple(classes)
