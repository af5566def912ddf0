"""Slides described by a row of numbers each: a manifest whose further columns are features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.datasets.csv import COLUMNS, read_rows, records_of, required
from wsi_vmamba.errors import DatasetError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.table import Table

#: Columns that describe a slide and are no features, beside those of every manifest.
NO_FEATURES = ("metastasis", "category", "histology", "fold", "flags")


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of N slides: ``values`` is (N, D) float64, in the order of ``records`` and ``names``."""

    records: tuple[SlideRecord, ...]
    names: tuple[str, ...]
    values: NDArray[np.float64]

    def rows(self, slide_ids: Sequence[str]) -> NDArray[np.float64]:
        """Features of some slides, in the order asked for."""
        places = {record.slide_id: place for place, record in enumerate(self.records)}
        return self.values[[places[slide_id] for slide_id in slide_ids]]


def read_feature_table(manifest: Path | None) -> FeatureTable:
    """Read a manifest with one line a slide; every column without a meaning of its own is a feature.

    Raises:
        UsageError: no manifest was given.
        DatasetError: the manifest is not as described, has no feature, or a feature is not a finite number.
    """
    path = required(manifest)
    table = read_rows(path)
    records = records_of(table, root=path.parent)
    if any((record.label or 0) > 1 for record in records):
        raise DatasetError(
            f"{path}: a classifier of rows of numbers tells two classes apart, and these slides have more; train on "
            "features of patches"
        )
    names = tuple(name for name in records[0].attributes if name not in NO_FEATURES)
    if not names:
        raise DatasetError(
            f"{path}: no column holds features; expected numbers in columns other than "
            f"{', '.join((*COLUMNS, *NO_FEATURES))}"
        )
    return FeatureTable(records=tuple(records), names=names, values=_values(table, names))


def _values(table: Table, names: Sequence[str]) -> NDArray[np.float64]:
    """Features (N, D) of the lines of a table.

    Raises:
        DatasetError: naming line and column of what is no finite number.
    """
    cells = [
        row.cell(name, what=f"column {name} of {row['slide_id']}") for row in table.rows for name in names
    ]
    try:
        numbers = table.numbers(cells)
    except DatasetError as error:
        raise DatasetError(
            f"{error}; columns that hold no features must be called one of {', '.join(NO_FEATURES)}"
        ) from error
    bad = next((place for place, number in enumerate(numbers) if not math.isfinite(number)), None)
    if bad is not None:
        cell = cells[bad]
        raise DatasetError(f"{cell.where}: {cell.what} must be a finite number, got {cell.text!r}")
    return np.asarray(numbers, dtype=np.float64).reshape(len(table.rows), len(names))
