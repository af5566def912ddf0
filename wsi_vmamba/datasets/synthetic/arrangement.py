"""Slides that hold the same patches and differ only in where these are: which block lies where.

A slide is a square of blocks, most of normal tissue, eight of tumour. Slides come in pairs made of the very same
blocks; the label is how the eight are arranged. An encoder that reads a block at a time gives both slides of a pair the
same features, and a classifier without places the same score, so that its AUC is 0.5 whatever it learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError

#: Blocks of tumour of a slide.
TUMOUR_BLOCKS = 8
#: Fewest blocks along a side: two lesions apart need them.
FEWEST_BLOCKS = 8
#: Shares of the pairs for training and validation; the others are for testing.
_TRAIN, _VALIDATION = 0.45, 0.15

#: (row, column) of each block of tumour.
Cells = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class ArrangementSpec:
    """Settings of such a cohort; equal settings give equal bytes.

    Attributes:
        arrangement: name in ARRANGEMENTS.
        pairs: of slides, a positive and a negative one each; one patient a pair.
        seed: seed of everything.
        blocks: along each side of a slide.
        difficulty: of the tumour's texture, as `CohortSpec.difficulty`.
        jpeg_quality: 1 to 100.
    """

    arrangement: str = "near-far"
    pairs: int = 100
    seed: int = 0
    blocks: int = 16
    difficulty: float = 0.2
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        if self.arrangement not in ARRANGEMENTS:
            raise UsageError(
                f"unknown arrangement {self.arrangement!r}; choose from {', '.join(ARRANGEMENTS)}"
            )
        if self.pairs < 4:
            raise UsageError(f"a cohort needs at least 4 pairs to be split, got pairs={self.pairs}")
        if self.blocks < FEWEST_BLOCKS:
            raise UsageError(f"a slide needs at least {FEWEST_BLOCKS} blocks a side, got {self.blocks}")
        if not 0 <= self.difficulty <= 1 or not 1 <= self.jpeg_quality <= 100:
            raise UsageError(
                f"difficulty lies in 0 to 1 and jpeg_quality in 1 to 100, got {self.difficulty} and {self.jpeg_quality}"
            )

    def split_of(self, pair: int) -> str:
        """The split of a pair of slides."""
        train = max(2, round(self.pairs * _TRAIN))
        validation = max(1, round(self.pairs * _VALIDATION))
        return "train" if pair < train else "validation" if pair < train + validation else "test"


def lay_out(spec: ArrangementSpec, pair: int, label: int) -> NDArray[np.int64]:
    """Which of the pair's blocks lies at each place, (blocks, blocks); the first TUMOUR_BLOCKS are of tumour."""
    draw = np.random.default_rng([spec.seed, 0xA66A, pair, label])
    cells = ARRANGEMENTS[spec.arrangement](draw, spec.blocks, bool(label))
    if draw.random() < 0.5:
        cells = [(column, row) for row, column in cells]
    grid = np.full((spec.blocks, spec.blocks), -1, dtype=np.int64)
    rows, columns = np.array(cells).T
    grid[rows, columns] = draw.permutation(TUMOUR_BLOCKS)
    normal = np.arange(TUMOUR_BLOCKS, spec.blocks**2)
    grid[grid < 0] = draw.permutation(normal)
    return grid


def _near_far(draw: np.random.Generator, blocks: int, near: bool) -> Cells:
    """Two lesions of 2 x 2 blocks in the same rows: with one block between them, or at least half of the slide."""
    gap = 1 if near else int(draw.integers(blocks // 2, blocks - 4, endpoint=True))
    row = int(draw.integers(0, blocks - 2, endpoint=True))
    column = int(draw.integers(0, blocks - 4 - gap, endpoint=True))
    return [
        (row + down, column + start + right) for start in (0, 2 + gap) for down in (0, 1) for right in (0, 1)
    ]


def _ring_line(draw: np.random.Generator, blocks: int, ring: bool) -> Cells:
    """Eight blocks around one of normal tissue, or in a row."""
    if ring:
        row, column = draw.integers(0, blocks - 3, size=2, endpoint=True).tolist()
        return [(row + i, column + j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    row = int(draw.integers(0, blocks - 1, endpoint=True))
    column = int(draw.integers(0, blocks - TUMOUR_BLOCKS, endpoint=True))
    return [(row, column + step) for step in range(TUMOUR_BLOCKS)]


#: Each gives (row, column) of the blocks of tumour of a positive slide (True) or a negative one; rows and columns
#: change places in half of the slides.
ARRANGEMENTS: Mapping[str, Callable[[np.random.Generator, int, bool], Cells]] = {
    "near-far": _near_far,
    "ring-line": _ring_line,
}
