"""How far a map of non-negative numbers spreads around a point: arithmetic only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Shares of the whole whose radius is told.
SHARES = (0.2, 0.5, 0.9)
#: Shares whose smallest square around the point is told, as in Ding et al. 2022 (arXiv:2203.06717), table 10.
SQUARE_SHARES = (0.2, 0.3, 0.5, 0.99)
#: A pixel counts as part of the effective receptive field above so much of the largest (Luo et al. 2016,
#: arXiv:1701.04128: 1 - 95.45 %, two standard deviations of a normal distribution).
PEAK_SHARE = 1 - 0.9545

Map = NDArray[np.float64]


def distances(shape: tuple[int, int], point: tuple[float, float]) -> tuple[Map, Map]:
    """Horizontal and vertical distance of each place of a map from ``point`` (x, y), in places, (h, w) each."""
    rows, columns = np.indices(shape, dtype=np.float64)
    return np.abs(columns - point[0]), np.abs(rows - point[1])


def radii(values: Map, point: tuple[float, float], shares: tuple[float, ...] = SHARES) -> tuple[float, ...]:
    """The least radius around ``point`` (x, y) within which each share of the sum lies, in places of the map.

    NaN of a map without anything.
    """
    across, down = distances(values.shape, point)
    return _least(np.hypot(across, down), values, shares)


def square_areas(
    values: Map, point: tuple[float, float], shares: tuple[float, ...] = SQUARE_SHARES
) -> tuple[float, ...]:
    """The share of the map that the least square around ``point`` covers in which each share of the sum lies."""
    across, down = distances(values.shape, point)
    reach = np.maximum(across, down)
    return tuple(
        float((reach <= half).mean()) if np.isfinite(half) else np.nan
        for half in _least(reach, values, shares)
    )


def area_over_peak(values: Map, *, share: float = PEAK_SHARE) -> float:
    """The share of the places whose value is at least ``share`` of the largest; NaN of a map without anything."""
    largest = values.max()
    return float((values >= share * largest).mean()) if largest > 0 else np.nan


def share_in_cross(values: Map, point: tuple[float, float], *, half_width: float) -> tuple[float, float]:
    """Share of the sum in the rows and columns within ``half_width`` of ``point``, and of the area that they are."""
    across, down = distances(values.shape, point)
    cross = np.minimum(across, down) <= half_width
    total = values.sum()
    return float(values[cross].sum() / total) if total > 0 else np.nan, float(cross.mean())


def _least(measure: Map, values: Map, shares: tuple[float, ...]) -> tuple[float, ...]:
    """The least value of ``measure`` up to which each share of the sum of ``values`` lies."""
    total = values.sum()
    if not total > 0:
        return (np.nan,) * len(shares)
    order = np.argsort(measure, axis=None, kind="stable")
    sums = np.cumsum(values.ravel()[order])
    # Rounding of a long sum must not push a share of one past the end.
    places = np.searchsorted(sums, np.array(shares) * sums[-1] * (1 - 1e-12))
    return tuple(float(one) for one in measure.ravel()[order][np.minimum(places, len(order) - 1)])
