"""FROC of detections: brought as files, or made from the cells of a trained run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from wsi_vmamba.pipelines.scoring import Scored, ScoredRun

from wsi_vmamba import console
from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.bags import Bag, load_bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.camelyon16 import FLAG_NO_FROC, NO_FROC, flags_of
from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics import LESION_METRICS
from wsi_vmamba.metrics.detections import Detections
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.froc_files import read_froc_slides, slide_files
from wsi_vmamba.metrics.lesions import MASK_DOWNSAMPLE, TUMOR_VALUE
from wsi_vmamba.metrics.peaks import detect_peaks
from wsi_vmamba.provenance import write_text_atomic
from wsi_vmamba.store import open_features, write_bytes_atomic

_OUTLINES = (".xml", ".geojson", ".json")


def froc_of_files(
    config: EvaluateConfig, *, masks: Path, detections: Path, exclude: Collection[str]
) -> FrocResult:
    """Compute the FROC of a folder of detections against a folder of level-5 masks.

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


def froc_of_run(config: EvaluateConfig, run: ScoredRun, out: Path) -> FrocResult:
    """Turn the cells of a run into detections, write them beside the masks, and compute their FROC.

    Raises:
        MetricError: there are neither masks nor outlines, a tumour slide has none, or the aggregator gives no
            score to single cells.
    """
    if config.masks is None and config.annotations is None:
        raise MetricError(
            "FROC of a run needs its lesions: --masks DIR (level-5 masks) or --annotations DIR (ASAP XML, GeoJSON)"
        )
    excluded = {
        *config.exclude,
        *(i.record.slide_id for i in run.scored if FLAG_NO_FROC in flags_of(i.record)),
    }
    judged = [item for item in run.scored if item.record.slide_id not in excluded]
    masks = Path(config.masks) if config.masks else out / "masks"
    sources = Path(config.masks or config.annotations or "")
    _require_lesions(judged, slide_files(sources, (".png", ".tif", ".tiff") if config.masks else _OUTLINES))
    detections = out / "detections"
    for item in judged:
        bag = load_bag(item.record, run.features)
        mpp = open_features(run.features / f"{bag.slide_id}.zarr").meta.mpp
        found = detect_peaks(
            cell_scores(item, bag), _centres(bag, run.features), merge_l0=config.merge_um / mpp
        )
        write_text_atomic(detections / f"{bag.slide_id}.csv", _csv(found))
    if config.annotations:
        _draw_masks(judged, slide_files(Path(config.annotations), _OUTLINES), run.features, masks)
    if excluded:
        console.say(f"left out of FROC: {', '.join(sorted(excluded))}")
    return froc_of_files(config, masks=masks, detections=detections, exclude=excluded)


def cell_scores(item: Scored, bag: Bag) -> NDArray[np.float64]:
    """Tumour probability of each cell, (N,).

    From a model supervised by outlines it is the cell's own; from one that only attends to cells it is the slide's,
    shared out by attention relative to the most attended cell.

    Raises:
        MetricError: the model tells cells apart in no way.
    """
    if item.prediction.cells is not None:
        return item.prediction.cells.astype(np.float64)
    attention = item.prediction.attention
    if attention is None:
        raise MetricError(
            f"{bag.slide_id}: this model gives cells no score of their own, so there are no detections; train with "
            "outlines, or with an aggregator that attends to cells"
        )
    weights = np.asarray(attention, dtype=np.float64)
    shared: NDArray[np.float64] = item.prediction.probability * weights / weights.max()
    return shared


def _require_lesions(judged: Iterable[Scored], files: Collection[str]) -> None:
    present = {name.casefold() for name in files}
    missing = [
        item.record.slide_id
        for item in judged
        if item.record.label == 1 and item.record.slide_id.casefold() not in present
    ]
    if missing:
        raise MetricError(
            f"{len(missing)} tumour slides have no lesions on file ({', '.join(missing[:5])}); each would count as "
            "normal: add their masks or outlines, or --exclude them"
        )


def _centres(bag: Bag, features: Path) -> NDArray[np.float64]:
    """Middle of each cell, inside the slide even where the cell reaches past its edge."""
    plan = open_features(features / f"{bag.slide_id}.zarr").meta.plan
    centres = bag.coords_l0 + bag.cell_l0 / 2
    if "width_l0" in plan:
        centres = np.minimum(centres, [plan["width_l0"] - 1, plan["height_l0"] - 1])
    return np.asarray(centres, dtype=np.float64)


def _draw_masks(judged: Iterable[Scored], outlines: dict[str, Path], features: Path, masks: Path) -> None:
    """Draw the outlines of the tumour slides at level 5."""
    by_name = {name.casefold(): path for name, path in outlines.items()}
    for item in judged:
        if item.record.label != 1:
            continue
        slide_id = item.record.slide_id
        plan = open_features(features / f"{slide_id}.zarr").meta.plan
        annotation = read_annotation(by_name[slide_id.casefold()])
        for note in annotation.notes:
            console.say(f"{slide_id}: {note}")
        mask = annotation.rasterize(
            width_px=math.ceil(plan["width_l0"] / MASK_DOWNSAMPLE),
            height_px=math.ceil(plan["height_l0"] / MASK_DOWNSAMPLE),
            downsample=MASK_DOWNSAMPLE,
        )
        _, encoded = cv2.imencode(".png", np.where(mask, np.uint8(TUMOR_VALUE), np.uint8(0)))
        masks.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(masks / f"{slide_id}.png", encoded.tobytes())


def _csv(found: Detections) -> str:
    rows = (found.row(index) for index in range(len(found)))
    return "".join(f"{probability!r},{x_l0:.0f},{y_l0:.0f}\n" for probability, x_l0, y_l0 in rows)
