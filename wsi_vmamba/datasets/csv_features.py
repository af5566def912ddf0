"""Slides described by a row of numbers each: a manifest whose further columns are features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.bags import SlideRecord
from wsi_vmamba.datasets.csv import COLUMNS, load
from wsi_vmamba.errors import DatasetError

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
    records = load(manifest=manifest)
    names = tuple(name for name in records[0].attributes if name not in NO_FEATURES)
    if not names:
        raise DatasetError(
            f"{manifest}: no column holds features; expected numbers in columns other than "
            f"{', '.join((*COLUMNS, *NO_FEATURES))}"
        )
    values = [[_number(record, name, manifest) for name in names] for record in records]
    return FeatureTable(records=tuple(records), names=names, values=np.asarray(values, dtype=np.float64))


def _number(record: SlideRecord, name: str, manifest: Path | None) -> float:
    cell = record.attributes[name]
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(
            f"{manifest}: {record.slide_id} has {cell!r} in column {name}; features must be finite numbers, and "
            f"columns that are none must be called one of {', '.join(NO_FEATURES)}"
        )
    return value
