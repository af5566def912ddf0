"""Objects of a picture: boxes and masks in its pixels, each mask cut out, so that thousands of them are small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError

Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Cut:
    """The mask of one object: bool (height, width), whose first pixel is the picture's (x_px, y_px)."""

    x_px: int
    y_px: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the rectangle that is cut out."""
        height, width = self.mask.shape
        return self.x_px, self.y_px, self.x_px + width, self.y_px + height

    def moved(self, *, x_px: int, y_px: int) -> Cut:
        """The same mask elsewhere."""
        return Cut(x_px=self.x_px + x_px, y_px=self.y_px + y_px, mask=self.mask)


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """What is, or was found, in a picture.

    Attributes:
        boxes: (n, 4), left, top, right, bottom in pixels; the corner of the picture is (0, 0).
        labels: (n,), place of each among the names of the classes.
        cuts: n masks.
        scores: (n,) from 0 to 1; of known objects 1.
        crowd: (n,), whether it stands for many that were not told apart: finding it counts neither for nor against.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    cuts: tuple[Cut, ...]
    scores: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.cuts)
        if self.boxes.shape != (n, 4) or any(
            one.shape != (n,) for one in (self.labels, self.scores, self.crowd)
        ):
            raise UsageError(
                f"objects need as many boxes, labels, scores and marks as masks ({n}), got shapes {self.boxes.shape}, "
                f"{self.labels.shape}, {self.scores.shape} and {self.crowd.shape}"
            )

    def __len__(self) -> int:
        return len(self.cuts)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Objects:
        """Some of them, in the order of ``places``, or those where a mask is True."""
        chosen = np.flatnonzero(places) if places.dtype == np.bool_ else places
        return Objects(
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            cuts=tuple(self.cuts[i] for i in chosen.tolist()),
            scores=self.scores[chosen],
            crowd=self.crowd[chosen],
        )

    def moved(self, *, x_px: int, y_px: int) -> Objects:
        """All of them elsewhere."""
        return Objects(
            boxes=self.boxes + np.array([x_px, y_px, x_px, y_px], dtype=np.float64),
            labels=self.labels,
            cuts=tuple(cut.moved(x_px=x_px, y_px=y_px) for cut in self.cuts),
            scores=self.scores,
            crowd=self.crowd,
        )


def make_objects(
    boxes: Sequence[Sequence[float]] | Boxes,
    labels: Sequence[int] | NDArray[np.int64],
    cuts: Sequence[Cut],
    *,
    scores: Sequence[float] | NDArray[np.float64] | None = None,
    crowd: Sequence[bool] | None = None,
) -> Objects:
    """Objects from plain lists; without ``scores`` they are known ones."""
    n = len(cuts)
    return Objects(
        boxes=np.asarray(boxes, dtype=np.float64).reshape(n, 4),
        labels=np.asarray(labels, dtype=np.int64),
        cuts=tuple(cuts),
        scores=np.ones(n) if scores is None else np.asarray(scores, dtype=np.float64),
        crowd=np.zeros(n, dtype=np.bool_) if crowd is None else np.asarray(crowd, dtype=np.bool_),
    )


def join(parts: Sequence[Objects]) -> Objects:
    """All objects of several lists, one list after the other."""
    return Objects(
        boxes=np.concatenate([part.boxes for part in parts]) if parts else np.empty((0, 4)),
        labels=np.concatenate([part.labels for part in parts]) if parts else np.empty(0, dtype=np.int64),
        cuts=tuple(cut for part in parts for cut in part.cuts),
        scores=np.concatenate([part.scores for part in parts]) if parts else np.empty(0),
        crowd=np.concatenate([part.crowd for part in parts]) if parts else np.empty(0, dtype=np.bool_),
    )


def cut_out(mask: NDArray[np.bool_], *, x_px: int = 0, y_px: int = 0) -> Cut:
    """The mask cut to what is True in it; an empty one has no pixels.

    Args:
        mask: bool (H, W).
        x_px: where its first column is.
        y_px: where its first row is.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Cut(x_px=x_px, y_px=y_px, mask=np.zeros((0, 0), dtype=np.bool_))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    return Cut(x_px=x_px + left, y_px=y_px + top, mask=part.copy())


def paste(cut: Cut, *, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """The mask in its picture, bool (height_px, width_px); what reaches past it is left out."""
    whole = np.zeros((height_px, width_px), dtype=np.bool_)
    left, top, right, bottom = cut.box
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width_px), min(bottom, height_px)
    if x0 < x1 and y0 < y1:
        whole[y0:y1, x0:x1] = cut.mask[y0 - top : y1 - top, x0 - left : x1 - left]
    return whole
