"""Lesion metrics of a trained run: its patches become detections, the outlines of its slides level-5 masks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.annotation import Annotation, read_annotation
from wsi_vmamba.bags import Bag, load_bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.console import shorten_notes
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import MetricError
from wsi_vmamba.evaluation.lesions import LesionMetrics, judge_detections
from wsi_vmamba.evaluation.run_scores import Scored, ScoredRun
from wsi_vmamba.metrics.detections import Detections
from wsi_vmamba.metrics.froc_files import mask_files, slide_files
from wsi_vmamba.metrics.lesions import MASK_DOWNSAMPLE, TUMOR_VALUE
from wsi_vmamba.metrics.peaks import detect_peaks
from wsi_vmamba.store import open_features

_OUTLINES = (".xml", ".geojson", ".json")


def knows_lesions(config: EvaluateConfig, run: ScoredRun) -> bool:
    """Whether masks or outlines were given, or the data set's own records name outlines."""
    return bool(config.masks or config.annotations) or any(item.record.annotation for item in run.scored)


def judge_lesions(config: EvaluateConfig, run: ScoredRun, out: Path) -> LesionMetrics:
    """Write the detections of a run, and its masks unless they were given, into ``out``; judge them as files.

    Raises:
        MetricError: a tumour slide has neither mask nor outlines, or the model gives no score to single patches.
    """
    if not knows_lesions(config, run):
        raise MetricError(
            "FROC of a run needs its lesions: --masks DIR (level-5 masks), --annotations DIR (ASAP XML, GeoJSON), or "
            "a manifest with the column annotation"
        )
    excluded = {
        *config.exclude,
        *(item.record.slide_id for item in run.scored if not item.record.counts_for_lesions),
    }
    judged = [item for item in run.scored if item.record.slide_id not in excluded]
    lesions = _find_lesions(config, judged)
    for item in judged:
        detections = _detect(item, run.features, merge_um=config.merge_um)
        write_atomic(out / "detections" / f"{item.record.slide_id}.csv", _csv(detections))
    notes = [] if config.masks else _draw_masks(lesions, run.features, out / "masks")
    if excluded:
        notes.append(f"left out of FROC: {', '.join(sorted(excluded))}")
    others = _others(out, {item.record.slide_id for item in judged} | excluded)
    if others:
        notes.append(
            f"{out} holds detections or masks of {len(others)} slides of another evaluation; left out"
        )
    masks = Path(config.masks) if config.masks else out / "masks"
    found = judge_detections(config, masks=masks, detections=out / "detections", exclude=excluded | others)
    return replace(found, notes=(*notes, *found.notes))


def _others(out: Path, known: Collection[str]) -> set[str]:
    """Slides that an earlier evaluation, of another split, left files of in the same folder."""
    files = (*(out / "detections").glob("*.csv"), *(out / "masks").glob("*.png"))
    return {file.stem for file in files} - set(known)


def patch_scores(item: Scored, bag: Bag) -> NDArray[np.float64]:
    """Tumour probability of each patch, (N,).

    From a model supervised by outlines it is the patch's own; from one that only attends to patches it is the slide's,
    shared out by attention relative to the most attended patch.

    Raises:
        MetricError: the model tells patches apart in no way.
    """
    if item.prediction.patches is not None:
        own: NDArray[np.float64] = item.prediction.patches.astype(np.float64)
        return own
    attention = item.prediction.attention
    if attention is None:
        raise MetricError(
            f"{bag.slide_id}: this model gives patches no score of their own, so there are no detections; train with "
            "outlines, or with an aggregator that attends to patches"
        )
    weights = np.asarray(attention, dtype=np.float64)
    shared: NDArray[np.float64] = item.prediction.probability * weights / weights.max()
    return shared


def _find_lesions(config: EvaluateConfig, judged: Sequence[Scored]) -> Mapping[str, Path]:
    """Mask or outline file of every tumour slide that is judged.

    Raises:
        MetricError: naming tumour slides without; each would count as normal.
    """
    folder = config.masks or config.annotations
    tumors = [item.record for item in judged if item.record.label == 1]
    if folder:
        files = mask_files(Path(folder)) if config.masks else slide_files(Path(folder), _OUTLINES)
        by_name = {name.casefold(): path for name, path in files.items()}
        found = {one.slide_id: by_name.get(one.slide_id.casefold()) for one in tumors}
    else:
        found = {one.slide_id: one.annotation for one in tumors}
    missing = [slide_id for slide_id, path in found.items() if path is None]
    if missing:
        raise MetricError(
            f"{len(missing)} tumour slides have no lesions on file ({', '.join(missing[:5])}); each would count as "
            "normal: add their masks or outlines, or --exclude them"
        )
    return {slide_id: path for slide_id, path in found.items() if path is not None}


def _detect(item: Scored, features: Path, *, merge_um: float) -> Detections:
    """Peaks of the patch scores of a slide, in the middle of their patches."""
    bag = load_bag(item.record, features)
    meta = open_features(features / f"{bag.slide_id}.zarr").meta
    centres = (bag.coords_l0 + bag.patch_l0 / 2).astype(np.float64)
    if "width_l0" in meta.plan:
        # A patch may reach past the edge of the slide, its detection may not.
        centres = np.minimum(centres, [meta.plan["width_l0"] - 1, meta.plan["height_l0"] - 1])
    return detect_peaks(patch_scores(item, bag), centres, merge_l0=merge_um / meta.mpp)


def _draw_masks(outlines: Mapping[str, Path], features: Path, masks: Path) -> list[str]:
    """Draw the outlines of slides at level 5; return what was repaired or left out of them."""
    notes: list[str] = []
    for slide_id, path in outlines.items():
        annotation = read_annotation(path)
        notes += [f"{slide_id}: note: {note}" for note in shorten_notes(annotation.notes)]
        plan = open_features(features / f"{slide_id}.zarr").meta.plan
        write_atomic(masks / f"{slide_id}.png", _mask_of(annotation, plan))
    return notes


def _mask_of(annotation: Annotation, plan: Mapping[str, Any]) -> bytes:
    """A PNG of a slide at level 5, tumour white."""
    mask = annotation.rasterize(
        width_px=math.ceil(plan["width_l0"] / MASK_DOWNSAMPLE),
        height_px=math.ceil(plan["height_l0"] / MASK_DOWNSAMPLE),
        downsample=MASK_DOWNSAMPLE,
    )
    _, encoded = cv2.imencode(".png", np.where(mask, np.uint8(TUMOR_VALUE), np.uint8(0)))
    return encoded.tobytes()


def _csv(found: Detections) -> str:
    rows = (found.row(index) for index in range(len(found)))
    return "".join(f"{probability!r},{x_l0:.0f},{y_l0:.0f}\n" for probability, x_l0, y_l0 in rows)
