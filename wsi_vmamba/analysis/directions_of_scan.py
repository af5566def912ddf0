"""The four scans of SS2D by name, in the order of their parameters."""

from __future__ import annotations

from collections.abc import Sequence

#: 0 walks row by row from the top left, 1 column by column, 2 and 3 are the reverses of 0 and 1.
SCANS = ("rows", "columns", "rows reversed", "columns reversed")


def name_of(scans: Sequence[int]) -> str:
    """Some scans in words: "none", "rows + rows reversed", "all four"."""
    if len(scans) in (0, len(SCANS)):
        return "all four" if scans else "none"
    return " + ".join(SCANS[one] for one in scans)
