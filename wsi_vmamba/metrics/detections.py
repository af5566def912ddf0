"""Detections of one slide against its lesions (rules 8 to 12 of the CAMELYON16 organisers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.metrics.lesions import MASK_DOWNSAMPLE, LesionMap


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Points of one slide in file order: three arrays of shape (n,); x_l0 and y_l0 in level-0 pixels.

    Probabilities are from 0 to 1: a lesion that is found below 0 would count as missed.
    """

    probability: NDArray[np.float64]
    x_l0: NDArray[np.float64]
    y_l0: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.probability, self.x_l0, self.y_l0)}
        if len(shapes) != 1 or self.probability.ndim != 1:
            raise MetricError(f"detections need three flat arrays of one length, got shapes {sorted(shapes)}")
        for name in ("probability", "x_l0", "y_l0"):
            bad = np.flatnonzero(~np.isfinite(getattr(self, name)))
            if len(bad):
                raise MetricError(
                    f"detection {int(bad[0]) + 1}: {name} is {getattr(self, name)[bad[0]]}, not a number"
                )
        bad = np.flatnonzero((self.probability < 0) | (self.probability > 1))
        if len(bad):
            raise MetricError(
                f"detection {int(bad[0]) + 1}: expected a probability from 0 to 1, got "
                f"{self.probability[bad[0]]:g}; divide percentages by 100, and take the sigmoid of logits"
            )

    def __len__(self) -> int:
        return len(self.probability)

    def row(self, index: int) -> tuple[float, float, float]:
        """(probability, x_l0, y_l0) of one detection."""
        return float(self.probability[index]), float(self.x_l0[index]), float(self.y_l0[index])


@dataclass(frozen=True, kw_only=True)
class FrocSlide:
    """One slide of the evaluation; ``lesions`` is None for a normal slide. Detections may be empty."""

    name: str
    lesions: LesionMap | None
    detections: Detections


@dataclass(frozen=True, kw_only=True)
class SlideMatch:
    """The outcome of the detections of one slide.

    ``false_positives`` index the detections, in file order. ``hits[k - 1]`` is the detection that stands for
    lesion k, or None; ``lesion_single`` and ``lesion_double`` hold its probability as the organisers' script
    keeps it (32 bits) and in full, 0 for a missed lesion and for isolated tumour cells.
    """

    name: str
    is_tumor: bool
    is_itc: tuple[bool, ...]
    detections: Detections
    false_positives: NDArray[np.int64]
    hits: tuple[int | None, ...]
    lesion_single: NDArray[np.float32]
    lesion_double: NDArray[np.float64]

    @property
    def n_counted(self) -> int:
        """Lesions of this slide that enter the denominator of sensitivity."""
        return self.is_itc.count(False)

    @property
    def false_positive_probabilities(self) -> NDArray[np.float64]:
        """Probabilities of the false positives, in file order."""
        return self.detections.probability[self.false_positives]

    def lesion_probabilities(self, *, single: bool) -> NDArray[np.float64]:
        """Probability of each lesion by label, as double; ``single`` gives the 32-bit value widened."""
        return self.lesion_single.astype(np.float64) if single else self.lesion_double

    def to_dict(self) -> dict[str, Any]:
        """Counts, and [probability, x, y] of each false positive and of each counted lesion's hit."""
        itc = [label for label, is_itc in enumerate(self.is_itc, start=1) if is_itc]
        hits = {
            label: None if hit is None else self.detections.row(hit)
            for label, hit in enumerate(self.hits, start=1)
            if label not in itc
        }
        fields: dict[str, Any] = plain(
            {
                "name": self.name,
                "is_tumor": self.is_tumor,
                "n_detections": len(self.detections),
                "n_lesions": len(self.is_itc),
                "n_counted": self.n_counted,
                "itc_labels": itc,
                "hits": hits,
                "false_positives": [self.detections.row(index) for index in self.false_positives.tolist()],
            }
        )
        return fields


def match_slide(slide: FrocSlide) -> SlideMatch:
    """Sort the detections of a slide into hits, false positives and ignored ones.

    Raises:
        MetricError: a detection of a tumour slide lies outside its mask.
    """
    labels = _labels_under(slide)
    is_itc = slide.lesions.is_itc if slide.lesions else ()
    hits: list[int | None] = [None] * len(is_itc)
    single, double = np.zeros(len(is_itc), dtype=np.float32), np.zeros(len(is_itc))
    for index in np.flatnonzero(labels).tolist():
        lesion = int(labels[index]) - 1
        if is_itc[lesion]:
            continue
        probability = float(slide.detections.probability[index])
        # Compared with the ROUNDED value held so far: of equal 0.7s the last one stands for the lesion.
        if probability > float(single[lesion]):
            single[lesion] = probability
            hits[lesion] = index
        double[lesion] = max(double[lesion], probability)
    return SlideMatch(
        name=slide.name,
        is_tumor=slide.lesions is not None,
        is_itc=is_itc,
        detections=slide.detections,
        false_positives=np.flatnonzero(labels == 0),
        hits=tuple(hits),
        lesion_single=single,
        lesion_double=double,
    )


def _labels_under(slide: FrocSlide) -> NDArray[np.int32]:
    """Lesion label under each detection, shape (n,)."""
    if slide.lesions is None:
        # On a normal slide every detection is false; where it lies is not looked at.
        return np.zeros(len(slide.detections), dtype=np.int32)
    height_px, width_px = slide.lesions.labels.shape
    column, row = (at // MASK_DOWNSAMPLE for at in (slide.detections.x_l0, slide.detections.y_l0))
    outside = (column < 0) | (row < 0) | (column >= width_px) | (row >= height_px)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        _, x_l0, y_l0 = slide.detections.row(first)
        raise MetricError(
            f"{slide.name}: {int(outside.sum())} of {len(outside)} detections lie outside the mask, the first "
            f"in line {first + 1} at x={x_l0:g}, y={y_l0:g}; the mask of {width_px} x {height_px} px covers "
            f"level 0 up to {width_px * MASK_DOWNSAMPLE} x {height_px * MASK_DOWNSAMPLE}. Coordinates must "
            "be in level-0 pixels, and the mask that of the whole slide at level 5"
        )
    found: NDArray[np.int32] = slide.lesions.labels[row.astype(np.int64), column.astype(np.int64)]
    return found
