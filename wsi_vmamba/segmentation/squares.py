"""Squares to train on: what they are, and how they are varied without a label losing its pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.pretraining.augment import change, draw_changes, orient
from wsi_vmamba.pretraining.view_settings import Augmentation

Augment = Literal["tissue", "photograph", "none"]

_TISSUE = Augmentation(grey_p=0.0, haematoxylin_p=0.0, jpeg_p=0.1)
_PHOTOGRAPH = Augmentation(
    turn=False, stain_gain=0.0, stain_shift=0.0, stain_hue=0.0, brightness=0.125, contrast=0.5, blur_p=0.0,
    jpeg_p=0.0, grey_p=0.0, haematoxylin_p=0.0,
)  # fmt: skip
#: The orientation that exchanges left and right.
_MIRRORED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Square:
    """A picture with what is known of it.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        labels: uint8 (H, W), numbers of classes.
        source: what it was taken from, for messages.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    source: str


class Squares(Protocol):
    """Where squares come from."""

    def draw(self, rng: np.random.Generator) -> Square:
        """A square of the side that is trained on, not varied yet."""
        ...

    def judged(self, count: int) -> int:
        """How many the model is judged on, where ``count`` squares are asked for."""
        ...

    def judge(self, index: int) -> Square:
        """One of those, always the same; of any size."""
        ...

    def describe(self) -> str:
        """What they come from, so that it shows when that changes."""
        ...


def _tissue(rng: np.random.Generator, square: Square) -> Square:
    (how,) = draw_changes(rng, _TISSUE, count=1)
    labels = orient(square.labels, how.orientation)
    return replace(square, pixels=change(square.pixels, how), labels=np.ascontiguousarray(labels))


def _photograph(rng: np.random.Generator, square: Square) -> Square:
    (how,) = draw_changes(rng, _PHOTOGRAPH, count=1)
    how = replace(how, orientation=_MIRRORED * int(rng.integers(2)))
    labels = orient(square.labels, how.orientation)
    return replace(square, pixels=change(square.pixels, how), labels=np.ascontiguousarray(labels))


#: Word -> how a square is varied.
AUGMENTS: Mapping[Augment, Callable[[np.random.Generator, Square], Square]] = {
    "tissue": _tissue,
    "photograph": _photograph,
    "none": lambda rng, square: square,
}
