"""Many slides through a segmenter: one after the other, what ends one does not end the others; then judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.config.segment import SegmentConfig
from wsi_vmamba.dense.folder import OutputFolder, decides
from wsi_vmamba.dense.slides import ALREADY_DONE, DONE, SlideRow, each_slide, opened
from wsi_vmamba.device import resolve_device
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import MissingDataError, NoTissueError, SlideError, UsageError
from wsi_vmamba.extraction.planning import plan_slide
from wsi_vmamba.metrics.detection_files import read_detections
from wsi_vmamba.regions import RegionPlan
from wsi_vmamba.segmentation import files
from wsi_vmamba.segmentation.annotated import AnnotatedSlide, find_annotated
from wsi_vmamba.segmentation.canvas import CELL_PX, Canvas
from wsi_vmamba.segmentation.classes import OUTSIDE, UNKNOWN
from wsi_vmamba.segmentation.losses import confusion
from wsi_vmamba.segmentation.maps import kind_of_maps, resolve_precision
from wsi_vmamba.segmentation.model import Segmenter, read_segmenter
from wsi_vmamba.segmentation.predict import RegionSegmenter
from wsi_vmamba.segmentation.scores import JudgedSlide, SegmentationScores, froc_slide, score
from wsi_vmamba.segmentation.truth import Grid, LabelMask, Labels, Nothing, Truth, read_truth
from wsi_vmamba.slide import Slide

COMMAND = "segment"
SCORES, SLIDE_SCORES = "scores.json", "scores.csv"
#: Settings that may differ between runs into one folder: they decide which slides there are and how they are judged,
#: not what becomes of a slide. What precision came to is compared instead of what was asked for.
_FREE = (
    "model", "slides", "out", "split", "annotations", "device", "precision", "memory_limit_gb", "overwrite",
    "bootstrap", "seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SegmentedSlide(SlideRow):
    """What became of a slide, see `SlideRow`.

    Attributes:
        pieces: outlines that were written; None where that was an earlier run.
        area_um2: area of each class, by name; empty likewise.
        regions: forward passes.
        image: its label image.
    """

    pieces: int | None = None
    area_um2: dict[str, float] = field(default_factory=dict)
    regions: int = 0
    image: Path | None = None


class SegmentRun:
    """Slides and a segmenter, brought together; `segment` works, `judge` says how well."""

    def __init__(self, config: SegmentConfig, *, model: Segmenter | None = None) -> None:
        """Load the segmenter and list the slides; nothing is written.

        Raises:
            WeightsError: there is no segmenter.
            UsageError: it was trained on pictures without a scale, there are no slides, or annotations lie where the
                result would.
            IncompatibleStoreError: the folder holds what another segmenter or other settings made.
        """
        self.config = config
        self.out = Path(config.out)
        self.model = read_segmenter(config.model) if model is None else model
        spec = self.model.spec
        if spec.target_mpp is None:
            raise UsageError(
                f"{config.model} was trained on pictures without a scale, so it cannot be laid over slides; use it "
                "from Python: wv.load_segmenter(FOLDER).picture(pixels)"
            )
        folder = Path(config.annotations) if config.annotations else None
        found = find_annotated(config.slides, annotations=folder)
        self.slides = [one for one in found if config.split in (None, one.record.split)]
        if not self.slides:
            raise UsageError(f"{config.slides} lists no slide of the split {config.split}")
        if folder is not None and not any(one.annotation for one in self.slides):
            raise MissingDataError(
                f"{folder} has no outlines or label masks of any of these {len(found)} slides"
            )
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, device=self.device)
        self.rows: list[SegmentedSlide] = []
        self._refuse_own_annotations()
        made_by = {
            "model": self.model.fingerprint, **decides(config, free=_FREE), "precision": self.precision,
        }  # fmt: skip
        self._folder = OutputFolder(
            config, command=COMMAND, kind="segmenter", made_by=made_by, overwrite=config.overwrite
        )
        self._folder.require_ours([one.slide_id for one in self.slides], there=files.slides_in(self.out))
        self._at_work: RegionSegmenter | None = None
        self._reading = ExtractConfig(
            slides=config.slides, target_mpp=spec.target_mpp, region_px=config.region_px, min_tissue=0.0,
            mask=config.mask, segmenter=config.segmenter,
        )  # fmt: skip

    @property
    def knows_truth(self) -> bool:
        """Whether of any slide it is known what is on it."""
        return any(one.annotation is not None for one in self.slides)

    @property
    def can_judge(self) -> bool:
        """Whether any slide of which it is known what is on it is segmented."""
        return any(one.annotation is not None and self._is_done(one.slide_id) for one in self.slides)

    @property
    def ok(self) -> bool:
        """Whether every slide is segmented."""
        return len(self.rows) == len(self.slides) and not any(row.failed for row in self.rows)

    def segment(self) -> Iterator[SegmentedSlide]:
        """Segment every slide that is not yet; yields what became of each.

        Raises:
            StoreError: the folder cannot be written to.
        """
        facts = {
            "classes": list(self.model.spec.classes), "device": self.device, "precision": self.precision,
            "maps": kind_of_maps(self.device),
        }  # fmt: skip
        outlines = (files.geojson_path(self.out, one.slide_id) for one in self.slides)
        scores = (self.out / name for name in (SCORES, SLIDE_SCORES))
        self._folder.begin(facts, replaced=(*outlines, *scores))
        for row in each_slide(self.slides, self._segment, kind=SegmentedSlide):
            self.rows.append(row)
            yield row

    def judge(self) -> SegmentationScores:
        """Judge the slides that are segmented and of which the truth is known; write scores.json and scores.csv.

        Raises:
            MissingDataError: there is none.
            AnnotationError: outlines that cannot be read.
            MaskError: a label mask that does not fit.
        """
        there = [one for one in self.slides if one.is_known and self._is_done(one.slide_id)]
        if not there:
            raise MissingDataError(
                "none of the segmented slides has outlines or a label mask to be judged by; give --annotations FOLDER"
            )
        found = score(
            [self._judged(one) for one in there], self.model.spec.table, seen=self.model.spec.trained_on,
            resamples=self.config.bootstrap, seed=self.config.seed,
        )  # fmt: skip
        write_atomic(self.out / SCORES, json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
        write_atomic(self.out / SLIDE_SCORES, csv_text(found.columns(), found.rows()))
        return found

    def canvas_of(self, slide: Slide, plan: RegionPlan) -> Canvas:
        """Segment an open slide by its plan; nothing is written."""
        if self._at_work is None:
            limit = self.config.memory_limit_gb
            self._at_work = RegionSegmenter(
                self.model, device=self.device, precision=self.precision,
                memory_limit=None if limit is None else int(limit * 1e9),
            )  # fmt: skip
        table = self.model.spec.table
        canvas = Canvas.of(plan, lesion=table.lesion is not None)
        for canvas in self._at_work.slide(slide, plan):  # noqa: B007 -- the last one has all regions
            pass
        if table.outside == "background":
            numbers = range(1, len(table.names) + 1)
            canvas.drop_small(numbers=numbers, min_area_um2=self.config.min_area_um2)
        return canvas

    def _segment(self, one: AnnotatedSlide) -> SegmentedSlide:
        slide_id, table = one.slide_id, self.model.spec.table
        outlines, image = files.geojson_path(self.out, slide_id), files.image_path(self.out, slide_id)
        if self._is_done(slide_id):
            return SegmentedSlide(slide_id=slide_id, outcome=ALREADY_DONE, outlines=outlines, image=image)
        with opened(one.source, mpp_override=self.config.mpp_override) as (slide, mpp):
            try:
                tissue, plan = plan_slide(self._reading, slide, mpp, slide_id=slide_id)
            except UsageError as error:  # this slide is too coarse; others may do
                raise SlideError(slide.path, str(error)) from error
            if not plan.regions:
                raise NoTissueError(slide.path, "no tissue found; look at the slide, or give --mask")
            canvas = self.canvas_of(slide, plan)
        if table.lesion is not None:
            merge_um = self.config.merge_um
            files.write_detections(
                canvas.detections(merge_um=merge_um), files.detections_path(self.out, slide_id)
            )
        files.write_label_image(canvas, table, image, slide_id=slide_id)
        # Last: a slide that has its outlines has the rest.
        pieces = files.write_geojson(canvas, table, outlines, slide_id=slide_id)
        areas = {
            name: float((canvas.numbers == number).sum()) * canvas.cell_um2
            for number, name in enumerate(table.names, 1)
        }
        return SegmentedSlide(
            slide_id=slide_id, outcome=DONE, detail="; ".join(tissue.mask.notes), pieces=pieces, area_um2=areas,
            regions=len(plan.regions), outlines=outlines, image=image,
        )  # fmt: skip

    def _is_done(self, slide_id: str) -> bool:
        return (
            files.geojson_path(self.out, slide_id).is_file()
            and files.image_path(self.out, slide_id).is_file()
        )

    def _judged(self, one: AnnotatedSlide) -> JudgedSlide:
        slide_id, spec = one.slide_id, self.model.spec
        table = spec.table
        assert spec.target_mpp is not None
        cell_mpp = CELL_PX * spec.target_mpp
        with opened(one.source, mpp_override=self.config.mpp_override) as (slide, mpp):
            truth: Truth = Nothing()
            if one.annotation is not None:
                truth = read_truth(one.annotation, slide, table, mpp=mpp.value, finest_mpp=cell_mpp)
            image = files.image_path(self.out, slide_id)
            found = LabelMask.read(image, slide, table, mpp=mpp.value, finest_mpp=cell_mpp)
            grid = Grid.of_slide(slide, pixel_l0=cell_mpp / mpp.value)
            counts = confusion(_known(truth, grid, table.first), found.labels(grid), classes=len(table.names))
            for_froc = None
            if table.lesion is not None and one.record.counts_for_lesions:
                places = read_detections(files.detections_path(self.out, slide_id))
                for_froc = froc_slide(slide, truth, places, lesion=table.lesion, slide_id=slide_id)
        return JudgedSlide(slide_id=slide_id, counts=counts, froc=for_froc)

    def _refuse_own_annotations(self) -> None:
        """Refuse to write outlines or a label image where the annotation lies that they are judged by."""
        for one in self.slides:
            slide_id = one.slide_id
            made = (files.geojson_path(self.out, slide_id), files.image_path(self.out, slide_id))
            if one.annotation is not None and one.annotation.resolve() in [path.resolve() for path in made]:
                raise UsageError(
                    f"{one.annotation} says what is on {slide_id}, and would be replaced by what is found; choose "
                    "another --out"
                )


def _known(truth: Truth, grid: Grid, first: int) -> Labels:
    """What is known of each cell; where a segmenter knows no background, what is outside is unknown."""
    labels = truth.labels(grid)
    if first:
        labels[labels == OUTSIDE] = UNKNOWN
    return labels
