"""Calls on an ordered scale, made by any program: a column of the truth and one of what was called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.camelyon17 import SLIDE_CLASSES, STAGES
from wsi_vmamba.errors import MetricError, UnknownNameError
from wsi_vmamba.metrics.bootstrap import BootstrappedResult
from wsi_vmamba.metrics.kappa import kappa_of_calls
from wsi_vmamba.table import read_table

#: The metric that is computed of calls alone.
KAPPA = "kappa"


@dataclass(frozen=True, kw_only=True)
class CallMetrics:
    """Calls and the truth.

    Attributes:
        source: what was called, for messages.
        scale: the names in their order.
        labels: (N,) places on the scale.
        called: (N,) likewise.
        kappa: quadratic weighted.
    """

    source: str
    scale: tuple[str, ...]
    labels: NDArray[np.int64]
    called: NDArray[np.int64]
    kappa: BootstrappedResult

    def to_dict(self) -> dict[str, Any]:
        """Kappa and the confusion, truth in rows, ready for JSON."""
        counts = np.zeros((len(self.scale), len(self.scale)), dtype=np.int64)
        np.add.at(counts, (self.labels, self.called), 1)
        return {
            "n": len(self.labels),
            "scale": list(self.scale),
            "confusion": counts.tolist(),
            "kappa": self.kappa.to_dict(),
        }


def read_calls(config: EvaluateConfig, path: Path, column: str) -> CallMetrics:
    """Read calls and the truth from a CSV, one line a slide or patient, and judge them.

    The scale is that of pN stages or of the classes of lymph nodes, whatever their case, or whole numbers.

    Raises:
        UnknownNameError: there is no such column.
        MetricError: a cell is empty, or what the cells hold has no order that is known.
    """
    table = read_table(path, expects=(column, config.label_column), error=MetricError)
    for name in (column, config.label_column):
        if name not in table.columns:
            raise UnknownNameError(f"column of {path}", name, table.columns)
    cells = [(row[config.label_column].casefold(), row[column].casefold()) for row in table.rows]
    empty = next((row for row, pair in zip(table.rows, cells, strict=True) if "" in pair), None)
    if empty is not None:
        raise MetricError(f"{empty.where}: truth or call is empty; leave the line out, or fill both")
    scale = _scale({cell for pair in cells for cell in pair}, path)
    places = {name.casefold(): place for place, name in enumerate(scale)}
    labels, called = np.array([[places[cell] for cell in pair] for pair in cells], dtype=np.int64).T
    return CallMetrics(
        source=f"{len(cells)} lines of {path} ({column})",
        scale=scale,
        labels=labels,
        called=called,
        kappa=kappa_of_calls(labels, called, resamples=config.bootstrap, seed=config.seed),
    )


def _scale(found: Collection[str], path: Path) -> tuple[str, ...]:
    for known in (STAGES, SLIDE_CLASSES):
        if set(found) <= {name.casefold() for name in known}:
            return known
    if found and all(cell.isascii() and cell.isdigit() and len(cell) < 4 for cell in found):
        highest = max(map(int, found))
        if len({int(cell) for cell in found}) == len(found):
            return tuple(str(number) for number in range(highest + 1))
    odd = sorted(set(found) - {name.casefold() for name in STAGES})
    raise MetricError(
        f"{path}: kappa counts steps on a scale, and {', '.join(map(repr, odd[:5]))} is on none that is known; give pN "
        f"stages ({', '.join(STAGES)}), classes of lymph nodes ({', '.join(SLIDE_CLASSES)}), or whole numbers"
    )
