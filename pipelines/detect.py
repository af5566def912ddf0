"""Recipe: slides and a detector to GeoJSON for QuPath and a table of counts."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config.detector import DetectConfig
from wsi_vmamba.detection.file import load_detector
from wsi_vmamba.detection.folder import DetectionFolder, maker
from wsi_vmamba.detection.geojson import geojson_text
from wsi_vmamba.detection.large import SlideObjects, find_in_slide, require_resolution
from wsi_vmamba.detection.model import Detector
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import AnnotationError, MemoryLimitError, SlideError, StoreError, UsageError
from wsi_vmamba.extraction.sources import SlideSource, find_sources, refuse_unusable, require_there
from wsi_vmamba.regions import choose_level
from wsi_vmamba.slide import Slide, open_slide, resolve_mpp
from wsi_vmamba.tissue import segment_tissue
from wsi_vmamba.training.resolve import choose_device

#: What ends a slide.
_FAULTS = (SlideError, StoreError, AnnotationError, MemoryLimitError)


def run(config: DetectConfig) -> bool:
    """Find the objects of every slide; False where one failed."""
    made_by = maker(config)
    sources = find_sources(config.slides)
    device = choose_device(config.device)
    detector = load_detector(config.detector, device=device)
    require_resolution(detector)
    folder = DetectionFolder(
        config,
        classes=detector.spec.classes,
        slide_ids=[source.slide_id for source in sources],
        made_by=made_by,
    )
    require_writable(folder.out, option="--out")
    folder.begin({"device": device, "detector": detector.spec.to_dict()})
    failed = 0
    for source in sources:
        slide_id = source.slide_id
        if folder.is_done(slide_id) and not config.overwrite:
            console.say(f"{slide_id}: {folder.geojson(slide_id)} is there already (--overwrite replaces it)")
            continue
        try:
            _one_slide(config, detector, source, folder)
        except _FAULTS as error:
            failed += 1
            console.say(f"{slide_id}: failed: {error.message if isinstance(error, SlideError) else error}")
    return failed == 0


def _one_slide(
    config: DetectConfig, detector: Detector, source: SlideSource, folder: DetectionFolder
) -> None:
    """Find the objects of a slide, keep them and say how many."""
    slide_id, classes = source.slide_id, detector.spec.classes
    refuse_unusable(source)
    require_there(source)
    with open_slide(source.path) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp).value
        _refuse_coarse(slide, mpp=mpp, detector_mpp=require_resolution(detector))
        tissue = segment_tissue(slide, mpp=mpp, segmenter=config.segmenter)
        found = find_in_slide(
            detector, slide, tissue, mpp=mpp, window_px=config.window_px, overlap_px=config.overlap_px,
            least_score=config.least_score,
        )  # fmt: skip
    text = geojson_text(
        found.objects, classes=classes, slide_id=slide_id, l0_per_px=found.l0_per_px, mpp_l0=mpp
    )
    counts = [int((found.objects.labels == label).sum()) for label in range(len(classes))]
    folder.keep(slide_id, windows=found.n_windows, counts=counts, geojson=text)
    _say_full(found, detector, slide_id=slide_id)
    shown = ", ".join(f"{count} {name}" for count, name in zip(counts, classes, strict=True))
    console.say(
        f"{slide_id}: {len(found.objects)} objects ({shown}) in {found.n_windows} windows: {folder.geojson(slide_id)}"
    )


def _refuse_coarse(slide: Slide, *, mpp: float, detector_mpp: float) -> None:
    """Refuse a slide that is coarser than what the detector learned from; others may do."""
    try:
        choose_level(mpp=mpp, levels=slide.levels, target_mpp=detector_mpp)
    except UsageError as error:
        raise SlideError(
            slide.path, f"{error}; here that is the mpp of the detector: train one on pictures as coarse"
        ) from error


def _say_full(found: SlideObjects, detector: Detector, *, slide_id: str) -> None:
    if found.n_full:
        console.say(
            f"{slide_id}: in {found.n_full} of {found.n_windows} windows there are {detector.spec.most_objects} "
            "objects, the most that this detector finds at once, so more may be there: take a smaller --window-px"
        )
