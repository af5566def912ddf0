"""Features as they are stored: float16, and nothing that it cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import StoreError

FLOAT16_MAX = float(np.finfo(np.float16).max)


def as_stored(
    features: NDArray[np.floating[Any]], coords_l0: NDArray[np.int64], *, where: Path, model: str
) -> NDArray[np.float16]:
    """Round to what is stored.

    Args:
        features: (n, D) floating point.
        coords_l0: (n, 2), the level-0 (x, y) of their patches, for messages.
        where: the feature file, for messages.
        model: the encoder, for messages.

    Raises:
        StoreError: a value is not finite or does not fit float16.
    """
    storable = np.abs(features) <= FLOAT16_MAX  # False for NaN too
    if not storable.all():
        row, column = np.argwhere(~storable)[0]
        x_l0, y_l0 = coords_l0[row]
        raise StoreError(
            f"{where}: the patch at level-0 ({x_l0}, {y_l0}) has {features[row, column]} as feature "
            f"{column}; {(~storable).sum()} value(s) are not finite or beyond float16's {FLOAT16_MAX:.0f}; "
            f"nothing was stored. Check the weights of {model}, or run it with --precision fp32"
        )
    return features.astype(np.float16)
