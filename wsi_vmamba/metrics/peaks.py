"""From a score for each patch of a slide to a short list of detections, as FROC needs it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.detections import Detections


def detect_peaks(
    probability: NDArray[np.float64], centres_l0: NDArray[np.float64], *, merge_l0: float, least: float = 0.0
) -> Detections:
    """Keep the most probable patch, drop its neighbours, and go on with what is left.

    Args:
        probability: of each patch, (N,).
        centres_l0: middle of each patch (x, y) in level-0 pixels, (N, 2).
        merge_l0: patches closer than this to a kept one are dropped, level-0 pixels.
        least: patches at or below it are no detections.

    Returns:
        Detections with falling probability, whole level-0 coordinates; of equal ones the first patch stands.

    Raises:
        MetricError: the arrays do not belong together.
    """
    if probability.ndim != 1 or centres_l0.shape != (len(probability), 2):
        raise MetricError(
            f"expected probability (N,) and centres (N, 2), got {probability.shape} and {centres_l0.shape}"
        )
    candidates = np.flatnonzero(probability > least)
    order = candidates[np.argsort(-probability[candidates], kind="stable")]
    kept: list[int] = []
    if len(order):
        points = centres_l0[order]
        tree = cKDTree(points)
        open_ = np.ones(len(order), dtype=np.bool_)
        for place in range(len(order)):
            if open_[place]:
                kept.append(int(order[place]))
                near = np.asarray(tree.query_ball_point(points[place], merge_l0), dtype=np.int64)
                # The ball is closed, the rule is "closer than".
                distance = np.hypot(*(points[near] - points[place]).T)
                open_[near[distance < merge_l0]] = False
    return Detections(
        probability=probability[kept],
        x_l0=np.floor(centres_l0[kept, 0]),
        y_l0=np.floor(centres_l0[kept, 1]),
    )
