"""Recipe: slides and a detector to GeoJSON for QuPath and a table of counts."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config.detector import DetectConfig
from wsi_vmamba.detection.file import load_detector
from wsi_vmamba.detection.geojson import geojson_text
from wsi_vmamba.detection.large import SlideObjects, find_in_slide
from wsi_vmamba.detection.model import Detector
from wsi_vmamba.durable import csv_text, require_writable, write_atomic
from wsi_vmamba.errors import SlideError
from wsi_vmamba.extraction.sources import SlideSource, find_sources, refuse_unusable
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.slide import open_slide, resolve_mpp
from wsi_vmamba.tissue import segment_tissue
from wsi_vmamba.training.resolve import choose_device

_TABLE = "detections.csv"


def run(config: DetectConfig) -> bool:
    """Find the objects of every slide; False where a slide could not be read."""
    out = Path(config.out)
    require_writable(out, option="--out")
    sources = find_sources(config.slides)
    device = choose_device(config.device)
    detector = load_detector(config.detector, device=device)
    classes = detector.spec.classes
    rows: list[tuple[object, ...]] = []
    failed = 0
    for source in sources:
        path = out / f"{source.slide_id}.geojson"
        if path.exists() and not config.overwrite:
            console.say(f"{source.slide_id}: {path} is there already (--overwrite replaces it)")
            continue
        try:
            found = _one_slide(config, detector, source, path)
        except SlideError as error:
            failed += 1
            console.say(f"{source.slide_id}: failed: {error.message}")
            continue
        counts = [int((found.objects.labels == label).sum()) for label in range(len(classes))]
        _say_full(found, detector, slide_id=source.slide_id)
        rows.append((source.slide_id, found.n_windows, len(found.objects), *counts))
        shown = ", ".join(f"{count} {name}" for count, name in zip(counts, classes, strict=True))
        console.say(
            f"{source.slide_id}: {len(found.objects)} objects ({shown}) in {found.n_windows} windows: {path}"
        )
    if rows:
        write_atomic(out / _TABLE, csv_text(("slide_id", "windows", "objects", *classes), rows))
        write_run_record(
            out,
            command="detect",
            config=config,
            facts={"device": device, "detector": detector.spec.to_dict()},
        )
    return failed == 0


def _say_full(found: SlideObjects, detector: Detector, *, slide_id: str) -> None:
    if found.n_full:
        console.say(
            f"{slide_id}: in {found.n_full} of {found.n_windows} windows there are {detector.spec.most_objects} "
            "objects, the most that this detector finds at once, so more may be there: take a smaller --window-px"
        )


def _one_slide(config: DetectConfig, detector: Detector, source: SlideSource, path: Path) -> SlideObjects:
    refuse_unusable(source)
    with open_slide(source.path) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp).value
        tissue = segment_tissue(slide, mpp=mpp, segmenter=config.segmenter)
        found = find_in_slide(
            detector, slide, tissue, mpp=mpp, window_px=config.window_px, overlap_px=config.overlap_px,
            least_score=config.least_score,
        )  # fmt: skip
    text = geojson_text(
        found.objects,
        classes=detector.spec.classes,
        slide_id=source.slide_id,
        l0_per_px=found.l0_per_px,
        mpp_l0=mpp,
    )
    write_atomic(path, text)
    return found
