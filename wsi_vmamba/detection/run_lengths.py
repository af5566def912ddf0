"""Masks as COCO's run lengths: how many pixels off, then on, then off, ... down the columns, plain or compressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Compressed counts are digits of five bits, lowest first, as characters from this one on; a sixth bit says that more
#: follow, and the fifth of the last digit is the sign. The fourth count and later ones are differences to the last but
#: one.
_FIRST, _MORE, _SIGN = 48, 0x20, 0x10


def mask_of_runs(counts: Sequence[int] | str, *, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Decode run lengths to a mask, bool (height_px, width_px).

    Raises:
        ValueError: they do not add up to the picture, or are no run lengths.
    """
    runs = _decompressed(counts) if isinstance(counts, str) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != width_px * height_px:
        raise ValueError(
            f"run lengths must add up to {width_px} x {height_px} = {width_px * height_px} pixels, got {sum(runs)}"
        )
    values = np.arange(len(runs)) % 2 == 1
    mask: NDArray[np.bool_] = np.repeat(values, runs).reshape(width_px, height_px).T
    return mask


def _decompressed(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - _FIRST
        if not 0 <= digit < 2 * _MORE:
            raise ValueError(f"compressed run lengths hold the character {character!r}")
        value |= (digit & (_MORE - 1)) << shift
        shift += 5
        if digit & _MORE:
            continue
        if digit & _SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts
