"""Is a new slide like those that the model was trained on? By its mean feature and by its resolution.

The distance of a slide is the root mean square, over the features, of how many standard deviations of the training
slides its mean feature lies from theirs. The limit comes from the training slides themselves: each is measured against
the others (leave-one-out), and the limit is the distance that 99 of 100 of them stay within, of fewer than a hundred
the largest. So of slides that are like the training slides about one in a hundred is flagged, and with N < 100 training
slides about one in N + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import IncompatibleStoreError
from wsi_vmamba.training.reference import Reference

#: Fewer training slides say too little about how slides differ.
FEWEST_SLIDES = 5
#: Share of the training slides that the limit leaves within.
_WITHIN = 0.99
#: A slide whose level-0 resolution differs by more from that of every training slide came from another scanner.
_MPP_RATIO = 1.1
#: As in training, a feature that varies less is only centred.
_SMALLEST_SD = 1e-6
NOT_CHECKED = "not checked"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How a slide compares with the training slides.

    Attributes:
        unlike: what is unlike them: "features", "mpp" or both, nothing, or None where it was not checked.
        why: in a sentence; empty where nothing is unlike.
        distance: of the mean feature, see above.
        limit: the largest distance that is still like them.
    """

    unlike: tuple[str, ...] | None
    why: str = ""
    distance: float | None = None
    limit: float | None = None

    @property
    def word(self) -> str:
        """For a table: what is unlike, "not checked", or nothing."""
        return NOT_CHECKED if self.unlike is None else "; ".join(self.unlike)


class Comparison:
    """Compares slides with those of a reference, or says why it cannot."""

    def __init__(self, reference: Reference | None, *, missing: str = "") -> None:
        """Measure the training slides against each other.

        Args:
            reference: of the run; None where it has none.
            missing: why not.
        """
        self._reference = reference
        self._why_not = missing
        if reference is not None and len(reference.means) < FEWEST_SLIDES:
            n_slides = len(reference.means)
            self._why_not = f"{n_slides} training slides; it takes {FEWEST_SLIDES} to tell how slides differ"
            self._reference = None
        if self._reference is None:
            return
        means = self._reference.means.astype(np.float64)
        self._center, self._spread = means.mean(axis=0), _spread(means.var(axis=0))
        self.limit = float(np.quantile(leave_one_out(means), _WITHIN, method="higher"))

    def of(self, features: NDArray[np.float32], *, mpp: float, slide_id: str) -> Likeness:
        """Compare the features (N, D) and the resolution of a slide.

        Raises:
            IncompatibleStoreError: the features have another length.
        """
        if self._reference is None:
            return Likeness(unlike=None, why=self._why_not)
        mean = features.mean(axis=0, dtype=np.float64)
        if mean.shape != self._center.shape:
            raise IncompatibleStoreError(
                f"{slide_id}: expected features of length {len(self._center)}, got {len(mean)}; extract it with the "
                "backbone of the training slides"
            )
        distance = _rms((mean - self._center) / self._spread)
        unlike, why = [], []
        if not distance <= self.limit:
            unlike.append("features")
            why.append(
                f"its mean feature lies {distance:.3g} from the training slides, limit {self.limit:.3g}"
            )
        known = self._reference.mpp
        if float(np.abs(np.log(known / mpp)).min()) > math.log(_MPP_RATIO):
            unlike.append("mpp")
            why.append(
                f"its level 0 has {mpp:g} um per pixel, training slides {known.min():g} to {known.max():g}"
            )
        return Likeness(unlike=tuple(unlike), why="; ".join(why), distance=distance, limit=self.limit)


def leave_one_out(means: Floats) -> Floats:
    """Distance of each of N slides, by its mean feature (N, D), from the N - 1 others: (N,)."""
    n_slides = len(means)
    # Around the common mean, so that the sums lose no digits.
    centred = means - means.mean(axis=0)
    others = n_slides - 1
    center = -centred / others
    square = (np.square(centred).sum(axis=0) - np.square(centred)) / others
    spread = _spread(np.maximum(square - np.square(center), 0.0))
    found: Floats = np.sqrt(np.square((centred - center) / spread).mean(axis=1))
    return found


def _spread(variance: Floats) -> Floats:
    spread: Floats = np.sqrt(variance)
    spread[spread < _SMALLEST_SD] = 1.0
    return spread


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))
