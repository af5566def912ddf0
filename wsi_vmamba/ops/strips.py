"""SS2D over a map that is only ever seen in strips of rows; README.md derives why this is exact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops.cpu_module import array, check_shape, native
from wsi_vmamba.ops.packing import BLOCK, ScanWeights
from wsi_vmamba.ops.whole_map import STORAGE


class StripCarries:
    """What the strips of one map hand to each other: first their transitions, then the states entering them.

    Strips are numbered from the top. They fall into contiguous ranges, which may be at work at the same
    time, each on one thread: `summarize` is called on the strips of a range from top to bottom, then `combine`
    once, then `apply` on the strips of each range, again from top to bottom. The ranges, not the threads, decide
    how results are rounded. Forward directions keep one slot per range
    (they are carried on from strip to strip), backward directions one per strip.
    """

    def __init__(self, weights: ScanWeights, *, width: int, ranges: Sequence[int]) -> None:
        """Allocate for a map ``width`` tokens wide whose i-th range holds ``ranges[i]`` strips."""
        if not ranges or min(ranges) < 1 or width < 1:
            raise UsageError(f"expected at least one strip per range and a width, got {ranges=}, {width=}")
        self.weights = weights
        self.width = width
        self._range_of, self._starts = ranges_of_strips(ranges)
        shapes = self._shapes(weights, width=width, ranges=ranges)
        # As the kernels take them: each call would turn tensors into arrays anew.
        self._states = [np.empty(s, np.float32) for s in shapes]
        self._decays: list[NDArray[np.float32]] | None = [np.empty(s, np.float32) for s in shapes]

    @staticmethod
    def _shapes(weights: ScanWeights, *, width: int, ranges: Sequence[int]) -> list[tuple[int, ...]]:
        """(slots, groups, columns, 16) of row-forward, column-forward, row-backward and column-backward.

        A group is one block of 16 channels and one of its N states.
        """
        groups = weights.state * weights.padded // BLOCK
        return [
            (slots, groups, columns, BLOCK) for slots in (len(ranges), sum(ranges)) for columns in (1, width)
        ]

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int, isa: str = "") -> None:
        """Record what strip number ``strip`` does to the states that pass through it.

        Args:
            u: (n, width, D), float32 or bfloat16, any n >= 1.
            proj: (n, width, 4 * (R + 2 N)), float32.
            strip: its number; within a range, strips must come in order.
            isa: instruction set; empty takes the best.
        """
        if self._decays is None:
            raise UsageError("summarize was called after combine; make new StripCarries for another pass")
        slot = self._slot(strip)
        native().summarize_strip(
            *self._arrays(u, proj),
            self._decays,
            self._states,
            slot,
            strip,
            strip in self._starts,
            slot + 1 < self._states[0].shape[0],
            isa,
        )

    def combine(self, *, threads: int = 1, isa: str = "") -> None:
        """Turn the transitions of all strips into the states that enter them, and free the transitions."""
        if self._decays is None:
            raise UsageError("combine was called twice")
        for direction, (decay, state) in enumerate(zip(self._decays, self._states, strict=True)):
            native().combine(decay, state, direction >= 2, threads, isa)
        self._decays = None

    def apply(self, u: Tensor, proj: Tensor, y: Tensor, *, strip: int, isa: str = "") -> None:
        """Write the scan of strip number ``strip`` to ``y`` (n, width, D) float32: four directions and skip.

        ``u`` and ``proj`` are those given to `summarize`; within a range, strips must come in order.
        """
        if self._decays is not None:
            raise UsageError("apply was called before combine")
        check_shape(y, "y", *u.shape)
        slots = self._slot(strip), strip
        native().apply_strip(*self._arrays(u, proj), self._states, *slots, array(y, "y"), isa)

    def _slot(self, strip: int) -> int:
        """The range that a strip belongs to, which is its slot in the forward directions."""
        if not 0 <= strip < len(self._range_of):
            raise UsageError(f"there is no strip {strip}; the ranges hold {len(self._range_of)}")
        return self._range_of[strip]

    def _arrays(self, u: Tensor, proj: Tensor) -> tuple[Any, ...]:
        return strip_arrays(self.weights, u, proj, width=self.width)


def ranges_of_strips(ranges: Sequence[int]) -> tuple[list[int], frozenset[int]]:
    """The range of each strip, and the strips that are first in theirs; the i-th range holds ``ranges[i]`` strips."""
    starts = [0, *accumulate(ranges)]
    return [r for r, count in enumerate(ranges) for _ in range(count)], frozenset(starts[:-1])


def strip_arrays(weights: ScanWeights, u: Tensor, proj: Tensor, *, width: int) -> tuple[Any, ...]:
    """Check a strip of a map ``width`` tokens wide, and give it and the weights as the kernels take them.

    Raises:
        UsageError: its shapes are not those of the map and the weights.
    """
    check_shape(u, "u", u.shape[0], width, weights.channels)
    check_shape(proj, "proj", *u.shape[:2], weights.proj_width)
    return array(u, "u", *STORAGE)[None], array(proj, "proj"), *weights.arrays
