"""Recipe: pictures with outlined objects to a detector."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config.train_detector import TrainDetectorConfig
from wsi_vmamba.dense.model_file import FILE
from wsi_vmamba.dense.rounds import best_of
from wsi_vmamba.detection.job import DetectionJob, prepare
from wsi_vmamba.detection.loop import DetectorEpoch


def run(config: TrainDetectorConfig) -> bool:
    """Train a detector, keep the best epoch, and say how to use it."""
    job = prepare(config)
    _say_what(job)
    with console.rounds_table(job.out, DetectorEpoch) as show:
        best = best_of(job.fit(on_start=lambda done: _say_resumed(job, done), on_epoch=show))
    of_slides = job.model.spec.target_mpp is not None
    following = f"wsi-vmamba detect {job.out} SLIDES" if of_slides else f'wv.load_detector("{job.out}")'
    console.say(
        f"best epoch {best.epoch}: average precision at an overlap of 0.5 is {best.mask_ap50:.3f} of masks, "
        f"{best.box_ap50:.3f} of boxes, on the validation pictures (it was chosen on them); {job.out / FILE}; next: "
        f"{following}"
    )
    return True


def _say_what(job: DetectionJob) -> None:
    console.say(
        f"training Mask R-CNN over {job.config.backbone} ({job.note}) on {len(job.training.pictures)} pictures of "
        f"{', '.join(job.training.classes)}; {len(job.validation.pictures)} for validation"
    )


def _say_resumed(job: DetectionJob, done: int) -> None:
    if job.config.resume:
        console.say_resumed(job.out, done, what="epoch")
