"""FROC of detections that lie in a folder, against level-5 masks in another."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.camelyon16 import NO_FROC
from wsi_vmamba.metrics import LESION_METRICS
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.froc_files import read_froc_slides


def froc_of_files(
    config: EvaluateConfig, *, masks: Path, detections: Path, exclude: Collection[str]
) -> FrocResult:
    """Compute the FROC of a folder of detections.

    Raises:
        MetricError: a folder or a file is not as described, see `read_froc_slides`.
    """
    if not masks.is_dir():
        # Without a lesion the score is undefined whatever the detections are, so nothing can look right.
        console.warn(f"{masks} is not a folder: all slides count as normal, and FROC is not defined")
    slides = read_froc_slides(masks_dir=masks, detections_dir=detections, exclude=exclude)
    suspects = sorted(slide.name for slide in slides if slide.name.casefold() in NO_FROC)
    if suspects:
        console.warn(
            f"{', '.join(suspects)}: not every lesion of this CAMELYON16 slide is outlined; if it is that slide, "
            f"leave it out with --exclude {suspects[0]}"
        )
    metric = LESION_METRICS.resolve("froc")
    result: FrocResult = metric(slides, resamples=config.bootstrap, seed=config.seed)
    return result
