"""What an AUC is based on, in words, where the figure and its interval alone would mislead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.base import Labels, Scores

_NO_WIDTH = (
    "DeLong's interval and the bootstrap have no width; that is a limit of both methods, not certainty"
)


def ranking_note(labels: Labels, scores: Scores) -> str | None:
    """Describe the order of the pairs of positive and negative slides where it is a special case; else None.

    Args:
        labels: zeros and ones, (N,), both of them there.
        scores: (N,), finite, higher meaning more likely positive.
    """
    right, tied, wrong = _pairs(scores[labels == 1], scores[labels == 0])
    pairs = right + tied + wrong
    if tied == pairs:
        return f"all scores are equal, they say nothing: the AUC is 0.5 by definition, so {_NO_WIDTH}"
    if right == pairs:
        return f"the scores separate the classes without one wrong pair, so {_NO_WIDTH}"
    if wrong == pairs:
        return (
            "every pair is in the wrong order: all negative slides have higher scores than all positive ones. Are "
            f"these the scores of the other class, or are the labels swapped? In any case {_NO_WIDTH}"
        )
    if right + 1 == pairs:
        return (
            f"one of {pairs} pairs is {'a tie' if tied else 'in the wrong order'}, all others are right; the width of "
            "the interval rests on that pair alone"
        )
    if wrong > right:
        return (
            f"{wrong} of {pairs} pairs are in the wrong order and {right} in the right one; if that is not chance, "
            "these may be the scores of the other class"
        )
    return None


def _pairs(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[int, int, int]:
    """Number of pairs in which the positive slide scores above, at and below the negative one."""
    ordered = np.sort(negative)
    below = int(np.searchsorted(ordered, positive, side="left").sum())
    to_here = int(np.searchsorted(ordered, positive, side="right").sum())
    return below, to_here - below, len(positive) * len(negative) - to_here
