"""What the cells of a table mean: numbers and labels, as people's programs, locales and spreadsheets write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from wsi_vmamba.errors import WsiVmambaError

#: Stricter than `float`, which also takes 1_000 and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE | re.ASCII)
#: Tables of integers with gaps become 0.0 and 1.0 in pandas; spreadsheets write TRUE.
_BINARY = {"0": 0, "0.0": 0, "0,0": 0, "false": 0, "1": 1, "1.0": 1, "1,0": 1, "true": 1}


#: What may be a whole number with its thousands divided.
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


class Cell(NamedTuple):
    """The text of one cell, with what it is ("mpp") and where it stands ("slides.csv, line 3")."""

    text: str
    what: str
    where: str


def read_numbers(cells: Sequence[Cell], *, decimal_comma: bool, error: type[WsiVmambaError]) -> list[float]:
    """Read cells as numbers, all with the same decimal sign; ``nan`` and ``inf`` are read as such.

    Args:
        cells: of one column or of several that were written by the same hand.
        decimal_comma: whether a comma may be the decimal sign, as it may where it does not divide the cells.
        error: what is raised.

    Raises:
        WsiVmambaError: of the class ``error``, naming the line and the cell that is no number, or the two lines whose
            decimal signs differ.
    """
    found = [_number(cell, decimal_comma=decimal_comma, error=error) for cell in cells]
    comma, point = (next((cell for cell in cells if sign in cell.text), None) for sign in ",.")
    if comma is not None and point is not None:
        raise error(
            f"{comma.where}: {comma.what} has a decimal comma ({comma.text}), and {point.where}: {point.what} a "
            f"decimal point ({point.text}); one of them may divide thousands, so write all numbers in one way"
        )
    grouped = [cell for cell in cells if "," in cell.text]
    if decimal_comma and grouped and all(_THOUSANDS.fullmatch(cell.text) for cell in grouped):
        cell = grouped[0]
        raise error(
            f"{cell.where}: {cell.what} is {cell.text}, and every comma there has three digits behind it: whether "
            "it divides thousands or is the decimal sign is not clear; write the numbers without it, or with more "
            "digits behind it"
        )
    return found


def _number(cell: Cell, *, decimal_comma: bool, error: type[WsiVmambaError]) -> float:
    text = cell.text.replace("\N{MINUS SIGN}", "-")  # as several locales print it
    if decimal_comma and "." not in text:
        text = text.replace(",", ".")
    if _NUMBER.fullmatch(text):
        return float(text)
    hint = ""
    if not decimal_comma and re.fullmatch(r"[+-]?\d+(,\d+)+", text):
        hint = "; a decimal comma needs a table with semicolons between its cells"
    elif text.endswith("%"):
        hint = "; write a percentage as a fraction"
    raise error(f"{cell.where}: {cell.what} must be a number, got {cell.text!r}{hint}")


def read_label(
    cell: Cell, *, positive: str | None, error: type[WsiVmambaError], remedy: str = ""
) -> int | None:
    """Read a label as 0 or 1; None for an empty cell.

    Args:
        cell: 0, 1, true, false, or a name.
        positive: name of the positive class where labels are names; every other name is then negative.
        error: what is raised.
        remedy: what to do about names where none is positive.

    Raises:
        WsiVmambaError: of the class ``error``: it is neither, or a name that differs from ``positive`` in case or
            blanks only, and would silently count as the other class.
    """
    if not cell.text:
        return None
    if positive is None:
        label = _BINARY.get(cell.text.casefold())
        if label is None:
            raise error(
                f"{cell.where}: {cell.what} must be 0 or 1, or empty where unknown, got {cell.text!r}{remedy}"
            )
        return label
    if cell.text != positive and loose(cell.text) == loose(positive):
        raise error(
            f"{cell.where}: {cell.what} {cell.text!r} and the positive class {positive!r} differ in case or blanks "
            "only; write both alike"
        )
    return int(cell.text == positive)


def is_number(text: str) -> bool:
    """Whether a cell is a number, as `read_numbers` reads them."""
    return _NUMBER.fullmatch(text) is not None


def is_binary(text: str) -> bool:
    """Whether a cell is one of the words for 0 and 1."""
    return text.casefold() in _BINARY


def loose(name: str) -> str:
    """A name without what people write inconsistently: case, blanks, underscores, hyphens."""
    return re.sub(r"[\s_-]+", "", name.casefold())
