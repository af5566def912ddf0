"""The table `extract.csv` beside features, read again."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from wsi_vmamba.errors import StoreError
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.table import Row, read_table

OUTCOMES = "extract.csv"


def read_outcomes(features: Path) -> list[Outcome]:
    """What became of every slide that was tried, by name; nothing where there is no table.

    Raises:
        StoreError: the table is damaged.
    """
    path = features / OUTCOMES
    if not path.is_file() or not path.stat().st_size:
        return []
    table = read_table(path, expects=("slide_id", "outcome"), error=StoreError)
    table.require([field.name for field in fields(Outcome)])
    return [_outcome(row) for row in table.rows]


def _outcome(row: Row) -> Outcome:
    try:
        return Outcome(
            slide_id=row["slide_id"], outcome=row["outcome"], detail=row["detail"], remedy=row["remedy"],
            regions=int(row["regions"]), patches=int(row["patches"]), left_out=int(row["left_out"]),
            seconds=float(row["seconds"]), decode_s=float(row["decode_s"]), wait_s=float(row["wait_s"]),
            stream_s=float(row["stream_s"]),
        )  # fmt: skip
    except ValueError as error:
        raise StoreError(f"{row.where}: damaged ({error}); move the table away and extract again") from error
