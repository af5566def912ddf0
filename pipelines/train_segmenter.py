"""Recipe: slides with outlines, or pictures with label masks, to a model that segments."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
from wsi_vmamba.dense.model_file import FILE
from wsi_vmamba.dense.rounds import best_of
from wsi_vmamba.durable import require_writable
from wsi_vmamba.segmentation.job import SegmentationJob, prepare
from wsi_vmamba.segmentation.loop import SegmentationEpoch


def run(config: TrainSegmenterConfig) -> bool:
    """Train, keep the model of the best round, and say how to use it."""
    require_writable(Path(config.out), option="--out")
    with prepare(config) as job:
        _say_what(job)
        with console.rounds_table(job.out, SegmentationEpoch) as show:
            best = best_of(job.fit(on_start=lambda done: _say_resumed(job, done), on_epoch=show))
    of_slides = job.model.spec.target_mpp is not None
    following = f"wsi-vmamba segment {job.out} SLIDES" if of_slides else f'wv.load_segmenter("{job.out}")'
    console.say(
        f"best round {best.epoch}: mean Dice {best.mean_dice:.4f}, mean IoU {best.mean_iou:.4f} on the validation "
        f"{'squares' if of_slides else 'pictures'} (it was chosen on them); {job.out / FILE}; next: {following}"
    )
    return True


def _say_what(job: SegmentationJob) -> None:
    config, spec = job.config, job.model.spec
    what = "backbone and head" if config.train_backbone else "a head"
    beside = " and background" if spec.outside == "background" else ""
    shown = ", ".join(spec.classes[:8]) + (
        f" and {len(spec.classes) - 8} more" if len(spec.classes) > 8 else ""
    )
    console.say(f"training {what} on {config.backbone} ({job.note}): {shown}{beside}; {job.about}")
    for note in console.shorten_notes(job.notes):
        console.say(f"note: {note}")


def _say_resumed(job: SegmentationJob, done: int) -> None:
    if job.config.resume:
        console.say_resumed(job.out, done, what="round")
