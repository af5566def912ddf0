"""Recipe: slides to outlines and label images, judged where the truth is known."""

from __future__ import annotations

import math

from wsi_vmamba import console
from wsi_vmamba.config.segment import SegmentConfig
from wsi_vmamba.dense.slides import failures
from wsi_vmamba.metrics.base import Interval
from wsi_vmamba.segmentation.run import SCORES, SegmentedSlide, SegmentRun
from wsi_vmamba.segmentation.scores import SegmentationScores


def run(config: SegmentConfig) -> bool:
    """Segment every slide, judge them, and say what there is; return whether every slide is segmented."""
    work = SegmentRun(config)
    spec = work.model.spec
    console.say(
        f"{len(work.slides)} slides; segmenter {config.model}: {', '.join(spec.classes)} at {spec.target_mpp:g} um per "
        "pixel"
    )
    with console.progress("segment", len(work.slides)) as task:
        for row in work.segment():
            _say(row)
            task.step(row.slide_id)
    failed = failures(work.rows)
    if failed:
        console.print_table("Slides without a segmentation", ("slide", "cause"), failed)
    if work.can_judge:
        _say_scores(work.judge(), work)
    elif work.knows_truth:
        console.warn("no slide whose annotation is known is segmented, so nothing is judged")
    return work.ok


def _say(row: SegmentedSlide) -> None:
    if row.failed:
        console.say(f"{row.slide_id}: failed ({row.detail})")
    elif row.pieces is None:
        console.say(f"{row.slide_id}: already done")
    else:
        areas = ", ".join(f"{name} {area / 1e6:.3f} mm2" for name, area in row.area_um2.items())
        console.say(
            f"{row.slide_id}: {row.pieces} outlines, {areas}; {row.regions} regions, {row.seconds:.1f} s; "
            f"{row.outlines}"
        )


def _say_scores(found: SegmentationScores, work: SegmentRun) -> None:
    rows = [
        (one.name, _with(one.dice, one.dice_ci95), _with(one.iou, one.iou_ci95), one.n_slides)
        for one in found.classes
    ]
    console.print_table(
        f"{len(found.slides)} slides with their truth", ("class", "Dice", "IoU", "on slides"), rows
    )
    if found.froc is not None and found.froc.n_lesions:
        result = found.froc
        console.say(
            f"FROC {_with(result.value, result.ci95)}, without the quirks of the official script "
            f"{_with(result.value_without_quirks, result.ci95_without_quirks)}; {result.n_lesions} lesions count"
        )
    if found.seen:
        console.warn(
            f"{len(found.seen)} of these slides ({', '.join(found.seen[:3])}) were trained on, or chose the round that "
            "was kept, so the figures say little of new slides; judge others, for example with --split test"
        )
    console.say(f"written to {work.out / SCORES}")


def _with(value: float, interval: Interval) -> str:
    if math.isnan(value):
        return "not defined"
    low, high = interval
    return f"{value:.4f}" if math.isnan(low) else f"{value:.4f} (95 % interval {low:.4f} to {high:.4f})"
