"""Lesion-level metrics of detections that lie in a folder, against level-5 masks in another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.camelyon16 import NO_FROC
from wsi_vmamba.evaluation.slides import ALL
from wsi_vmamba.metrics import LESION_METRICS
from wsi_vmamba.metrics.base import MetricResult, require_result
from wsi_vmamba.metrics.detections import FrocSlide, SlideMatch, match_slide
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.froc_files import read_froc_slides


@dataclass(frozen=True, kw_only=True)
class LesionMetrics:
    """Detections judged against lesions.

    Attributes:
        name: of the metric that was asked for; of "all" the first of the table.
        results: by name, what each metric found.
        slides: of each slide, its lesions, hits and false positives.
        warnings: what the user should act on.
        notes: what else there is to know.
    """

    name: str
    results: Mapping[str, MetricResult]
    slides: tuple[SlideMatch, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> MetricResult:
        """Result of the metric that was asked for."""
        return self.results[self.name]

    @property
    def froc(self) -> FrocResult | None:
        """The FROC, where it was computed."""
        found = self.results.get("froc")
        return found if isinstance(found, FrocResult) else None


def judge_detections(
    config: EvaluateConfig, *, masks: Path, detections: Path, exclude: Collection[str]
) -> LesionMetrics:
    """Compute the lesion metric that was asked for, or all of the table, from two folders.

    Args:
        config: names the metric, the resamples and the seed.
        masks: folder of level-5 masks, see `read_froc_slides`.
        detections: folder of ``<slide>.csv`` with probability, x and y in level-0 pixels.
        exclude: slides to leave out.

    Raises:
        MetricError: a folder or a file is not as described, or a metric returns something else than a result.
    """
    slides = read_froc_slides(masks_dir=masks, detections_dir=detections, exclude=exclude)
    names = tuple(LESION_METRICS) if config.metric == ALL else (config.metric,)
    draws = {"resamples": config.bootstrap, "seed": config.seed}
    return LesionMetrics(
        name=names[0],
        results={name: require_result(LESION_METRICS.resolve(name)(slides, **draws), name) for name in names},
        slides=tuple(match_slide(slide) for slide in slides),
        warnings=tuple(_warnings(slides, masks)),
    )


def _warnings(slides: list[FrocSlide], masks: Path) -> list[str]:
    found = []
    if not masks.is_dir():
        # Without a lesion the score is undefined whatever the detections are, so nothing can look right.
        found.append(f"{masks} is not a folder: all slides count as normal, and FROC is not defined")
    suspects = sorted(slide.name for slide in slides if slide.name.casefold() in NO_FROC)
    if suspects:
        found.append(
            f"{', '.join(suspects)}: not every lesion of this CAMELYON16 slide is outlined; if it is that slide, "
            f"leave it out with --exclude {suspects[0]}"
        )
    return found
