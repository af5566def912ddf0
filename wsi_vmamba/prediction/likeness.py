"""Is a new slide like those that the model was trained on? By its mean feature, its resolution and its stain.

The distance of a slide is the root mean square, over the features, of how many standard deviations of the training
slides its mean feature lies from theirs. The limit comes from the training slides themselves: each is measured against
the others (leave-one-out), and the limit is the distance that 99 of 100 of them stay within, of fewer than a hundred
the largest. So of slides that are like the training slides about one in a hundred is flagged, and with N < 100 training
slides about one in N + 1.

Stain is compared in the same way, by mean and deviation of the optical densities of its tissue in red, green and blue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import IncompatibleStoreError
from wsi_vmamba.training.reference import Reference

#: Fewer training slides say too little about how slides differ.
FEWEST_SLIDES = 5
#: Share of the training slides that the limit leaves within.
_WITHIN = 0.99
#: Of optical densities; differences below are of the scanner's noise, not of the stain.
_SMALLEST_DENSITY_SD = 0.01
#: Of the distance of stains: slides as far from the mean as the training slides are on average are like them.
_SMALLEST_STAIN_LIMIT = 1.0
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
        unlike: what is unlike them, of "features", "mpp" and "stain"; None where it was not checked.
        why: in a sentence, also why the stain alone was not compared; empty where nothing is unlike.
        distance: of the mean feature, see above.
        limit: the largest distance that is still like them.
        stain_distance: the same of the stain; None where it was not compared.
        stain_limit: the same of the stain.
    """

    unlike: tuple[str, ...] | None
    why: str = ""
    distance: float | None = None
    limit: float | None = None
    stain_distance: float | None = None
    stain_limit: float | None = None

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
        stains = self._reference.stain
        stains = stains[np.isfinite(stains).all(axis=1)]
        self.stain_limit: float | None = None
        if len(stains) >= FEWEST_SLIDES:
            self._stain_center = stains.mean(axis=0)
            self._stain_spread = _spread_of_stains(stains.var(axis=0))
            found = leave_one_out(stains, spread=_spread_of_stains)
            self.stain_limit = max(float(np.quantile(found, _WITHIN, method="higher")), _SMALLEST_STAIN_LIMIT)

    def of(self, features: NDArray[np.float32], *, mpp: float, stain: Floats, slide_id: str) -> Likeness:
        """Compare the features (N, D), the resolution and the stain (6,), see `stain_vector`, of a slide.

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
        stain_distance = self._stain_distance(stain)
        if stain_distance is None:
            whose = "its" if self.stain_limit is not None else "the training slides'"
            why.append(f"its stain was not compared: {whose} features do not record it")
        elif self.stain_limit is not None and stain_distance > self.stain_limit:
            unlike.append("stain")
            why.append(
                f"its stain lies {stain_distance:.3g} from the training slides, limit {self.stain_limit:.3g} "
                f"({self._stain_in_words(stain)})"
            )
        return Likeness(
            unlike=tuple(unlike), why="; ".join(why), distance=distance, limit=self.limit,
            stain_distance=stain_distance, stain_limit=None if stain_distance is None else self.stain_limit,
        )  # fmt: skip

    def _stain_distance(self, stain: Floats) -> float | None:
        if self.stain_limit is None or not np.isfinite(stain).all():
            return None
        return _rms((stain - self._stain_center) / self._stain_spread)

    def _stain_in_words(self, stain: Floats) -> str:
        """Mean densities of a slide, and those of the training slides."""
        mine, theirs = (
            "/".join(f"{value:.2f}" for value in each[:3]) for each in (stain, self._stain_center)
        )
        return f"density in red/green/blue {mine}, training slides {theirs}"


def _spread(variance: Floats) -> Floats:
    spread: Floats = np.sqrt(variance)
    spread[spread < _SMALLEST_SD] = 1.0
    return spread


def _spread_of_stains(variance: Floats) -> Floats:
    spread: Floats = np.maximum(np.sqrt(variance), _SMALLEST_DENSITY_SD)
    return spread


def leave_one_out(means: Floats, *, spread: Callable[[Floats], Floats] = _spread) -> Floats:
    """Distance of each of N slides, by its mean feature (N, D), from the N - 1 others: (N,).

    Args:
        means: one row a slide.
        spread: from variances to the deviations that distances are measured in.
    """
    n_slides = len(means)
    # Around the common mean, so that the sums lose no digits.
    centred = means - means.mean(axis=0)
    others = n_slides - 1
    center = -centred / others
    square = (np.square(centred).sum(axis=0) - np.square(centred)) / others
    deviation = spread(np.maximum(square - np.square(center), 0.0))
    found: Floats = np.sqrt(np.square((centred - center) / deviation).mean(axis=1))
    return found


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))
