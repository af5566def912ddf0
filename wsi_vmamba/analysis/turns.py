"""The eight ways to turn and mirror a square, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A symmetry of the square: ``there`` and ``back`` work on the first two axes of an array."""

    there: Callable[[Pixels], Pixels]
    back: Callable[[Pixels], Pixels]


def _same(there: Callable[[Pixels], Pixels]) -> Turn:
    return Turn(there=there, back=there)


def _rotation(quarters: int) -> Turn:
    return Turn(there=lambda a: np.rot90(a, quarters), back=lambda a: np.rot90(a, -quarters))


#: Name -> turn, the first changes nothing. A symmetric SS2D can know only "turned 180" and the two transpositions: its
#: walks start in two corners that lie opposite each other.
TURNS: Mapping[str, Turn] = {
    "as it is": _same(lambda a: a),
    "turned 90": _rotation(1),
    "turned 180": _rotation(2),
    "turned 270": _rotation(3),
    "mirrored left-right": _same(lambda a: a[:, ::-1]),
    "mirrored up-down": _same(lambda a: a[::-1]),
    "transposed": _same(lambda a: a.swapaxes(0, 1)),
    "transposed the other way": _same(lambda a: np.rot90(a, 2).swapaxes(0, 1)),
}
