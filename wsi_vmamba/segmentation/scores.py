"""How well slides are segmented: Dice and IoU over all their cells, with intervals over slides, and FROC of lesions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.metrics.base import Interval, plain
from wsi_vmamba.metrics.bootstrap import FEWEST, resample
from wsi_vmamba.metrics.detections import Detections, FrocSlide
from wsi_vmamba.metrics.froc import FrocResult, froc
from wsi_vmamba.metrics.lesions import MASK_DOWNSAMPLE, TUMOR_VALUE, find_lesions
from wsi_vmamba.segmentation.classes import ClassTable
from wsi_vmamba.segmentation.losses import dice_and_iou
from wsi_vmamba.segmentation.truth import Grid, Truth
from wsi_vmamba.slide import Slide


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedSlide:
    """A segmented slide beside the truth.

    Attributes:
        slide_id: its name.
        counts: confusion matrix of its cells, see `confusion`.
        froc: its lesions and detections; None where there is no class of lesions, or the slide does not count.
    """

    slide_id: str
    counts: NDArray[np.int64]
    froc: FrocSlide | None


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class over all slides; intervals are NaN where fewer than two slides show it.

    Attributes:
        name: of the class.
        dice: of all cells of all slides together; NaN where it is neither there nor found.
        dice_ci95: its percentile interval over slides.
        iou: likewise.
        iou_ci95: likewise.
        n_slides: slides that show it.
    """

    name: str
    dice: float
    dice_ci95: Interval
    iou: float
    iou_ci95: Interval
    n_slides: int


@dataclass(frozen=True, kw_only=True)
class SegmentationScores:
    """All that the truth says of segmented slides.

    Attributes:
        classes: the scores of each, background left out.
        froc: of lesions; None where the segmenter has no such class.
        slides: by slide.
        names: of the classes, of those in ``slides`` from the second row on.
        seen: slides among them that the segmenter was trained on, or chosen by.
        resamples: of the intervals.
        seed: likewise.
    """

    classes: tuple[ClassScore, ...]
    froc: FrocResult | None
    slides: tuple[JudgedSlide, ...]
    names: tuple[str, ...]
    seen: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are there or found."""
        return float(np.nanmean([one.dice for one in self.classes]))

    @property
    def mean_iou(self) -> float:
        """Likewise."""
        return float(np.nanmean([one.iou for one in self.classes]))

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON (NaN as null)."""
        fields: dict[str, Any] = plain(
            {
                "mean_dice": self.mean_dice,
                "mean_iou": self.mean_iou,
                "classes": [vars(one) for one in self.classes],
                "about": {
                    "dice": "all cells of stride 4 of all slides together; unknown ones left out",
                    "ci95": f"percentile interval, {self.resamples} draws of slides, those with the class and those "
                    "without apart",
                },
                "n_slides": len(self.slides),
                "trained_on": list(self.seen),
                "froc": None if self.froc is None else self.froc.to_dict(),
                "resamples": self.resamples,
                "seed": self.seed,
            }
        )
        return fields

    def rows(self) -> list[tuple[Any, ...]]:
        """One row a slide: its name, then Dice, IoU and area share of truth and found for each class; see `columns`."""
        return [(one.slide_id, *_of_slide(one.counts)) for one in self.slides]

    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        parts = ("dice", "iou", "true_cells", "found_cells")
        return ("slide_id", *(f"{part} {name}" for name in self.names for part in parts))


def _of_slide(counts: NDArray[np.int64]) -> list[Any]:
    dice, iou = dice_and_iou(counts)
    cells: list[Any] = []
    for number in range(1, len(counts)):
        shown = ["" if math.isnan(value) else round(float(value), 6) for value in (dice[number], iou[number])]
        cells += [*shown, int(counts[number].sum()), int(counts[:, number].sum())]
    return cells


def score(
    slides: Sequence[JudgedSlide], classes: ClassTable, *, seen: Sequence[str], resamples: int, seed: int
) -> SegmentationScores:
    """Scores of slides.

    Args:
        slides: at least one.
        classes: what they were segmented into.
        seen: slides that the segmenter was trained on.
        resamples: of the intervals, at least 100.
        seed: of the resamples.
    """
    counts = np.stack([slide.counts for slide in slides])
    for_froc = [slide.froc for slide in slides if slide.froc is not None]
    return SegmentationScores(
        classes=tuple(
            _class_score(counts, number, classes.names[number - 1], resamples=resamples, seed=seed)
            for number in range(1, len(classes.names) + 1)
        ),
        froc=froc(for_froc, resamples=resamples, seed=seed) if for_froc else None,
        slides=tuple(slides),
        names=classes.names,
        seen=tuple(sorted(set(seen) & {slide.slide_id for slide in slides})),
        resamples=resamples,
        seed=seed,
    )


def _class_score(
    counts: NDArray[np.int64], number: int, name: str, *, resamples: int, seed: int
) -> ClassScore:
    """Of a class, from the confusion matrices (slides, classes + 1, classes + 1)."""
    both = counts[:, number, number].astype(np.float64)
    true, found = counts[:, number].sum(axis=1), counts[:, :, number].sum(axis=1)
    sizes = (true + found).astype(np.float64)
    dice, iou = _ratios(both.sum(), sizes.sum())
    dice_ci95: Interval = (math.nan, math.nan)
    iou_ci95 = dice_ci95
    if (true > 0).sum() >= FEWEST:
        drawn = np.concatenate(
            [
                np.stack(_ratios(weights @ both, weights @ sizes))
                for weights in resample((true > 0).astype(np.int64), resamples=resamples, seed=seed)
            ],
            axis=1,
        )
        low, high = np.percentile(drawn, [2.5, 97.5], axis=1)
        dice_ci95, iou_ci95 = (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
    return ClassScore(
        name=name, dice=float(dice), dice_ci95=dice_ci95, iou=float(iou), iou_ci95=iou_ci95,
        n_slides=int((true > 0).sum()),
    )  # fmt: skip


def _ratios(both: Any, sizes: Any) -> tuple[Any, Any]:
    """Dice and IoU; NaN where a class is neither there nor found."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(2 * both, sizes), np.divide(both, sizes - both)


def froc_slide(slide: Slide, truth: Truth, found: Detections, *, lesion: int, slide_id: str) -> FrocSlide:
    """A slide for FROC: its lesions at level 5, as the organisers of CAMELYON16 count them, and its detections."""
    grid = Grid.of_slide(slide, pixel_l0=MASK_DOWNSAMPLE)
    mask = np.where(truth.labels(grid) == lesion, np.uint8(TUMOR_VALUE), np.uint8(0))
    lesions = find_lesions(mask, name=slide_id) if mask.any() else None
    return FrocSlide(name=slide_id, lesions=lesions, detections=found)
