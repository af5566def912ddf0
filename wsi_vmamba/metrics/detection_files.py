"""Reading the detections of a slide from a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_vmamba.cells import Cell, read_numbers
from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.detections import Detections
from wsi_vmamba.table import read_lines

_COLUMNS = ("probability", "x", "y")


def read_detections(path: Path) -> Detections:
    """Read ``probability,x,y`` lines (level-0 pixels); a header of these names and blank lines are skipped.

    Raises:
        MetricError: naming file and line, where a line is not three finite numbers, or the first of them no
            probability.
    """
    delimiter, lines = read_lines(path, fits=lambda cells: len(cells) == len(_COLUMNS), error=MetricError)
    if lines and tuple(map(str.lower, lines[0][1])) == _COLUMNS:
        lines = lines[1:]
    cells = [cell for line, fields in lines for cell in _cells(fields, where=f"{path}, line {line}")]
    numbers = read_numbers(cells, decimal_comma=delimiter != ",", error=MetricError)
    table = np.asarray(numbers, dtype=np.float64).reshape(-1, len(_COLUMNS))
    for (line, _), (probability, x_l0, y_l0) in zip(lines, table.tolist(), strict=True):
        where = f"{path}, line {line}"
        if not np.isfinite((probability, x_l0, y_l0)).all():
            raise MetricError(f"{where}: expected three finite numbers, got {probability}, {x_l0}, {y_l0}")
        if not 0 <= probability <= 1:
            raise MetricError(
                f"{where}: expected a probability in 0–1, got {probability:g}; are the columns probability,x,y? "
                "If so, divide percentages by 100, and take the sigmoid of logits"
            )
    return Detections(probability=table[:, 0], x_l0=table[:, 1], y_l0=table[:, 2])


def _cells(fields: Sequence[str], *, where: str) -> list[Cell]:
    if len(fields) != len(_COLUMNS):
        raise MetricError(f"{where}: expected probability,x,y, got {','.join(fields)!r}")
    return [Cell(text, what, where) for text, what in zip(fields, _COLUMNS, strict=True)]
