"""The cubic by the compiled module `wsi_vmamba.rescale._cubic`; `available` says whether it is here, `why` why not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.extension import load_extension
from wsi_vmamba.rescale.taps import COLUMN_BITS, FRACTION_BITS, ROW_BITS, FillBlock, Taps

module, why, instruction_sets = load_extension("wsi_vmamba.rescale._cubic")
available = module is not None
#: The instruction set used unless another is asked for.
isa = instruction_sets[0] if instruction_sets else "none"


class Cubic:
    """Both passes for a few target rows at a time; the bytes of `reference.Cubic`."""

    def __init__(self, columns: Taps, *, isa: str = isa) -> None:
        """Prepare for target columns; ``isa`` is one of `instruction_sets`.

        Raises:
            UsageError: the extension is missing.
        """
        if module is None:
            raise UsageError(f"compiled resampling was asked for, but {why}; use reference.Cubic")
        self._resample = module.resample
        self._first, self._weights = columns.first, _without_zeros(columns.weights)
        self._isa = isa

    def prepare(self, rows: Taps) -> FillBlock:
        """Prepare for target rows; the block given later begins with the first row and column they need."""
        row_first, row_weights = rows.first - rows.first[0], _without_zeros(rows.weights)

        def fill(block: NDArray[np.uint8], column: int, target: NDArray[np.uint8]) -> None:
            stop = column + target.shape[1]
            self._resample(
                block,
                row_first,
                row_weights,
                self._first[column:stop] - self._first[column],
                self._weights[column:stop],
                target,
                row_shift=ROW_BITS - FRACTION_BITS,
                column_shift=FRACTION_BITS + COLUMN_BITS,
                isa=self._isa,
            )

        return fill


def _without_zeros(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drop the last taps where they are zero for every pixel: the work is in proportion to the taps."""
    used = np.flatnonzero(weights.any(axis=0))[-1] + 1
    return np.ascontiguousarray(weights[:, :used])
