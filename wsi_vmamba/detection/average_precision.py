"""Average precision, as COCO defines it: how well a ranked list of found objects covers the known ones.

Found objects of a picture are taken from the highest score down; each is matched to the free known object of its class
that it overlaps most, if by the threshold at least, and is wrong otherwise. One that fits only a crowd is left out.
Precision is made monotone and averaged over the recalls 0, 0.01, ..., 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.detection.objects import Objects
from wsi_vmamba.detection.overlap import Overlaps, box_overlaps, mask_overlaps

#: Overlaps over which COCO's own figure is averaged.
COCO_OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_RECALLS = np.linspace(0, 1, 101)
#: Most found objects of a picture and class that count, those of the highest scores, as COCO has it.
COCO_MOST = 100

Of = Literal["boxes", "masks"]
_HIT, _MISS, _IGNORED = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Average precision at one overlap.

    Attributes:
        by_class: of each class, by its number, that the pictures have; classes without a known object are not there.
        known: how many known objects each of those has, crowds left out.
    """

    by_class: Mapping[int, float]
    known: Mapping[int, int]

    @property
    def mean(self) -> float:
        """Mean of the classes; not a number without any."""
        return float(np.mean(list(self.by_class.values()))) if self.by_class else float("nan")


class PrecisionCounter:
    """Takes pictures one by one and keeps only scores and outcomes."""

    def __init__(
        self, overlaps: Sequence[float] = (0.5,), *, of: Of = "boxes", most: int | None = None
    ) -> None:
        """Count at each of ``overlaps``; ``most`` found objects of a picture and class at most, None: all."""
        self._overlaps, self._of, self._most = tuple(overlaps), of, most
        self._scores: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        self._outcomes: dict[int, list[NDArray[np.int8]]] = defaultdict(list)
        self._known: dict[int, int] = defaultdict(int)

    def add(self, found: Objects, known: Objects) -> None:
        """Count one picture."""
        for label in sorted({*found.labels.tolist(), *known.labels.tolist()}):
            these, those = found.take(found.labels == label), known.take(known.labels == label)
            these = these.take(np.argsort(-these.scores, kind="stable")[: self._most])
            overlaps = (
                box_overlaps(these.boxes, those.boxes, crowd=those.crowd)
                if self._of == "boxes"
                else mask_overlaps(these, those)
            )
            outcomes = [match(overlaps, crowd=those.crowd, least=least) for least in self._overlaps]
            self._scores[label].append(these.scores)
            self._outcomes[label].append(np.stack(outcomes))
            self._known[label] += int(np.count_nonzero(~those.crowd))

    def at(self, overlap: float) -> Precision:
        """Average precision at one of the overlaps."""
        row = self._overlaps.index(overlap)
        present = {label: count for label, count in sorted(self._known.items()) if count}
        by_class = {
            label: average_precision(
                np.concatenate(self._scores[label]),
                np.concatenate([outcomes[row] for outcomes in self._outcomes[label]]),
                n_known=count,
            )
            for label, count in present.items()
        }
        return Precision(by_class=by_class, known=present)

    def mean(self) -> float:
        """Mean over all overlaps and classes: with `COCO_OVERLAPS` and `COCO_MOST` the figure that COCO ranks by."""
        return float(np.mean([self.at(overlap).mean for overlap in self._overlaps]))


def match(overlaps: Overlaps, *, crowd: NDArray[np.bool_], least: float) -> NDArray[np.int8]:
    """Outcome of each found object: 1 a known one, 0 none, -1 part of a crowd, which does not count.

    Args:
        overlaps: (n_found, n_known), the found ones from the highest score down.
        crowd: (n_known,).
        least: overlap that is needed.
    """
    outcomes = np.full(len(overlaps), _MISS, dtype=np.int8)
    free = ~crowd
    for place, row in enumerate(overlaps):
        fits = np.where(free, row, -1.0)
        best = int(fits.argmax()) if len(fits) else -1
        if best >= 0 and fits[best] >= least:
            outcomes[place], free[best] = _HIT, False
        elif (row[crowd] >= least).any():
            outcomes[place] = _IGNORED
    return outcomes


def average_precision(scores: NDArray[np.float64], outcomes: NDArray[np.int8], *, n_known: int) -> float:
    """Average precision of one class from scores and outcomes (`match`) of all pictures.

    Args:
        scores: (n,).
        outcomes: (n,), 1, 0 or -1.
        n_known: how many there were to find; at least 1.
    """
    counted = outcomes != _IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    hits = outcomes[counted][order] == _HIT
    if not len(hits):
        return 0.0
    right = np.cumsum(hits)
    recall = right / n_known
    precision = right / np.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    padded = np.append(ceiling, 0.0)
    return float(padded[places].mean())
