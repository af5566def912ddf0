"""Many slides through a detector: one after the other, what ends one does not end the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.config.detect import DetectConfig
from wsi_vmamba.dense.folder import OutputFolder, decides
from wsi_vmamba.dense.slides import ALREADY_DONE, DONE, SlideRow, each_slide, opened
from wsi_vmamba.detection.geojson import geojson_text
from wsi_vmamba.detection.large import find_in_slide, require_resolution
from wsi_vmamba.detection.model import read_detector
from wsi_vmamba.detection.table import NAME, CountTable
from wsi_vmamba.device import resolve_device
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, SlideError, UsageError
from wsi_vmamba.extraction.sources import SlideSource, find_sources
from wsi_vmamba.extraction.tissue_files import find_tissue
from wsi_vmamba.regions import choose_level
from wsi_vmamba.slide import Slide

COMMAND = "detect"
#: Settings that may differ between runs into one folder: they do not decide what is found on a slide.
_FREE = ("model", "slides", "out", "device", "overwrite")


@dataclass(frozen=True, kw_only=True)
class DetectedSlide(SlideRow):
    """What became of a slide, see `SlideRow`.

    Attributes:
        counts: how many objects there are of each class, by name; empty where that was an earlier run.
        windows: how many windows were looked at.
        full_windows: in how many of them the detector found as many objects as it can: more may be there.
    """

    counts: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    full_windows: int = 0

    @property
    def objects(self) -> int:
        """How many were found."""
        return sum(self.counts.values())


class DetectRun:
    """Slides and a detector, brought together; `detect` works."""

    def __init__(self, config: DetectConfig) -> None:
        """Load the detector and list the slides; nothing is written.

        Raises:
            WeightsError: there is no detector.
            UsageError: torchvision is not installed, the detector learned from photographs, or there are no slides.
            IncompatibleStoreError: the folder holds what another detector or other settings made.
            StoreError: what is there cannot be read.
        """
        self.config = config
        self.out = Path(config.out)
        self.device = resolve_device(config.device)
        # First: whoever exchanges the two arguments is told which is the model.
        self.model = read_detector(config.model, device=self.device)
        self.sources = find_sources(config.slides)
        self._target_mpp = require_resolution(self.model)
        self.rows: list[DetectedSlide] = []
        made_by = {"model": self.model.fingerprint, **decides(config, free=_FREE)}
        self._folder = OutputFolder(
            config, command=COMMAND, kind="detector", made_by=made_by, overwrite=config.overwrite
        )
        there = {path.stem: path for path in sorted(self.out.glob("*.geojson"))}
        self._folder.require_ours([one.slide_id for one in self.sources], there=there)
        self._table = CountTable(self.out, classes=self.model.spec.classes)
        self._take_rows()
        self._reading = ExtractConfig(slides=config.slides, mask=config.mask, segmenter=config.segmenter)

    @property
    def ok(self) -> bool:
        """Whether every slide was looked at."""
        return len(self.rows) == len(self.sources) and not any(row.failed for row in self.rows)

    def detect(self) -> Iterator[DetectedSlide]:
        """Find the objects of every slide that has none yet; yields what became of each.

        Raises:
            StoreError: the folder cannot be written to.
        """
        spec = self.model.spec
        self._folder.begin(
            {"classes": list(spec.classes), "device": self.device},
            replaced=[self.geojson(one.slide_id) for one in self.sources],
        )
        for row in each_slide(self.sources, self._detect, kind=DetectedSlide):
            self.rows.append(row)
            yield row

    def geojson(self, slide_id: str) -> Path:
        """The file with the objects of a slide."""
        return self.out / f"{slide_id}.geojson"

    def _detect(self, source: SlideSource) -> DetectedSlide:
        slide_id, config, classes = source.slide_id, self.config, self.model.spec.classes
        outlines = self.geojson(slide_id)
        if slide_id in self._table and outlines.is_file():
            return DetectedSlide(slide_id=slide_id, outcome=ALREADY_DONE, outlines=outlines)
        with opened(source, mpp_override=config.mpp_override) as (slide, mpp):
            self._refuse_coarse(slide, mpp=mpp.value)
            tissue = find_tissue(self._reading, slide, mpp=mpp.value, slide_id=slide_id).mask
            found = find_in_slide(
                self.model, slide, tissue, mpp=mpp.value, window_px=config.window_px, overlap_px=config.overlap_px,
                least_score=config.least_score,
            )  # fmt: skip
        counts = [int((found.objects.labels == label).sum()) for label in range(len(classes))]
        # The row first: a row without a GeoJSON is a slide to be done, a GeoJSON without a row is somebody else's.
        self._table.add(slide_id, windows=found.n_windows, counts=counts)
        text = geojson_text(
            found.objects, classes=classes, slide_id=slide_id, l0_per_px=found.l0_per_px, mpp_l0=mpp.value
        )
        write_atomic(outlines, text)
        return DetectedSlide(
            slide_id=slide_id, outcome=DONE, detail="; ".join(tissue.notes), outlines=outlines,
            counts=dict(zip(classes, counts, strict=True)), windows=found.n_windows, full_windows=found.n_full,
        )  # fmt: skip

    def _refuse_coarse(self, slide: Slide, *, mpp: float) -> None:
        """Refuse a slide that is coarser than what the detector learned from; others may do."""
        try:
            choose_level(mpp=mpp, levels=slide.levels, target_mpp=self._target_mpp)
        except UsageError as error:
            raise SlideError(
                slide.path, f"{error}; here that is the mpp of the detector: train one on pictures as coarse"
            ) from error

    def _take_rows(self) -> None:
        """Go on with the table of the folder; begin it anew where all of the folder is replaced."""
        if self._folder.is_replaced:
            return
        self._table.read()
        for source in self.sources:
            path = self.geojson(source.slide_id)
            if source.slide_id not in self._table and path.exists() and not self.config.overwrite:
                raise IncompatibleStoreError(
                    f"{path} is there, but not in {NAME}, so something else made it; choose another --out, or replace "
                    "it with --overwrite"
                )
