"""One picture file as RGB."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError

#: Endings of pictures that are read.
TILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


def read_tile(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB (H, W, 3).

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except FileNotFoundError as error:
        raise DatasetError(f"no such picture: {path}") from error
    except (OSError, cv2.error) as error:
        raise DatasetError(f"{path}: the tile cannot be read ({error})") from error
    if decoded is None:
        raise DatasetError(f"{path}: the tile cannot be decoded; replace or remove it")
    return np.ascontiguousarray(decoded[..., ::-1])
