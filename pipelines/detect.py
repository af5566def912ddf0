"""Recipe: slides and a detector to GeoJSON for QuPath and a table of counts."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config.detect import DetectConfig
from wsi_vmamba.dense.slides import failures
from wsi_vmamba.detection.run import DetectedSlide, DetectRun
from wsi_vmamba.detection.table import NAME


def run(config: DetectConfig) -> bool:
    """Find the objects of every slide, and say what there is; return whether every slide was looked at."""
    work = DetectRun(config)
    spec = work.model.spec
    console.say(
        f"{len(work.sources)} slides; detector {config.model}: {', '.join(spec.classes)} at {spec.target_mpp:g} um per "
        "pixel"
    )
    with console.progress("detect", len(work.sources)) as task:
        for row in work.detect():
            _say(row, most_objects=spec.most_objects)
            task.step(row.slide_id)
    failed = failures(work.rows)
    if failed:
        console.print_table("Slides without detections", ("slide", "cause"), failed)
    if len(failed) < len(work.rows):
        console.say(f"counts of all slides of the folder: {work.out / NAME}")
    return work.ok


def _say(row: DetectedSlide, *, most_objects: int) -> None:
    if row.failed:
        console.say(f"{row.slide_id}: failed ({row.detail})")
    elif not row.counts:
        console.say(f"{row.slide_id}: already done")
    else:
        shown = ", ".join(f"{count} {name}" for name, count in row.counts.items())
        console.say(
            f"{row.slide_id}: {row.objects} objects ({shown}); {row.windows} windows, {row.seconds:.1f} s; "
            f"{row.outlines}"
        )
    if row.full_windows:
        console.warn(
            f"{row.slide_id}: in {row.full_windows} of {row.windows} windows there are {most_objects} objects, the "
            "most that this detector finds at once, so more may be there: take a smaller --window-px"
        )
