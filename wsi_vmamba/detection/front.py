"""Detection from Python: `train_detector`, `load_detector` and `detect`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.detect import DetectConfig
from wsi_vmamba.config.train_detector import PAINTED, TrainDetectorConfig
from wsi_vmamba.dense.rounds import best_of
from wsi_vmamba.detection.job import prepare
from wsi_vmamba.detection.large import find_in_picture
from wsi_vmamba.detection.loop import DetectorEpoch
from wsi_vmamba.detection.model import Detector, read_detector
from wsi_vmamba.detection.objects import Objects
from wsi_vmamba.detection.run import DetectedSlide, DetectRun
from wsi_vmamba.device import resolve_device
from wsi_vmamba.encode import check_pixels
from wsi_vmamba.notebook import table_html


@dataclass(frozen=True, kw_only=True)
class OpenDetector:
    """A detector that is ready: `picture` takes pixels, `detect` slides.

    Attributes:
        folder: where it lies.
        classes: names of what it finds.
        target_mpp: micrometres per pixel of the pictures that it learned from; None: photographs.
        history: the epochs of its training, of one that was just trained; else empty.
    """

    folder: Path
    classes: tuple[str, ...]
    target_mpp: float | None
    history: tuple[DetectorEpoch, ...] = ()
    _at_work: Detector = field(repr=False)

    @property
    def best(self) -> DetectorEpoch:
        """The epoch whose model was kept, of one that was just trained."""
        return best_of(self.history)

    def picture(
        self,
        pixels: NDArray[np.uint8],
        *,
        window_px: int = 256,
        overlap_px: int = 64,
        least_score: float = 0.5,
    ) -> Objects:
        """The objects of RGB pixels (H, W, 3) of the scale that it was trained at, from the highest score down.

        Args:
            pixels: of any size.
            window_px: side of what is seen at once.
            overlap_px: what neighbouring windows share; longer objects may be lost.
            least_score: of what is found.

        Raises:
            UsageError: no such pixels.
        """
        check_pixels(pixels)
        return find_in_picture(
            self._at_work, pixels, window_px=window_px, overlap_px=overlap_px, least_score=least_score
        )

    def detect(self, slides: str | Path, **settings: Any) -> Detections:
        """See `detect`."""
        return detect(self.folder, slides, **settings)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Slides whose objects were found. Iterating gives a `DetectedSlide` for each, failed ones included.

    Attributes:
        folder: where their files lie.
        rows: what became of each.
    """

    folder: Path
    rows: tuple[DetectedSlide, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[DetectedSlide]:
        return iter(self.rows)

    @property
    def ok(self) -> bool:
        """Whether every slide was looked at."""
        return not any(row.failed for row in self.rows)

    def _repr_html_(self) -> str:
        columns = ("slide", "outcome", "objects", "note or cause")
        rows = [
            (row.slide_id, row.outcome, row.objects if row.counts else "", row.detail) for row in self.rows
        ]
        return table_html(columns, rows)


def train_detector(data: str | Path = PAINTED, **settings: Any) -> OpenDetector:
    """Train FPN and Mask R-CNN over a VMamba, as `wsi-vmamba train-detector` does.

    Args:
        data: folder with train.json and validation.json in COCO's format, or "painted".
        settings: any setting of `TrainDetectorConfig` by name.

    Returns:
        The detector of the best epoch.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: torchvision is not installed, the backbone is no VMamba, or there is a model already.
        DatasetError: the data are not in COCO's format.
        TrainingError: loss or gradient is not finite.

    Example:
        >>> import wsi_vmamba as wv
        >>> wv.train_detector("nuclei", epochs=12).best.mask_ap50  # doctest: +SKIP
    """
    config = keyword_config(TrainDetectorConfig, {**settings, "data": str(data)})
    history = prepare(config).fit()
    return replace(load_detector(config.out, device=config.device), history=history)


def load_detector(folder: str | Path, *, device: str = "auto") -> OpenDetector:
    """Load a detector that `train_detector` wrote.

    Args:
        folder: where it lies, or the file itself.
        device: where it computes.

    Raises:
        WeightsError: there is none, or it is something else or damaged.
        UsageError: torchvision is not installed.
    """
    model = read_detector(folder, device=resolve_device(device))
    return OpenDetector(
        folder=Path(folder), classes=model.spec.classes, target_mpp=model.spec.target_mpp, _at_work=model
    )


def detect(model: str | Path, slides: str | Path, **settings: Any) -> Detections:
    """Find the objects of slides, as `wsi-vmamba detect` does.

    Args:
        model: folder or file that `train_detector` wrote.
        slides: a folder, one slide, or a CSV.
        settings: any setting of `DetectConfig` by name: ``out=``, ``least_score=``, ``mask=``...

    Returns:
        What became of each slide, with ``.counts``; the outlines are in the files ``.outlines``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        WeightsError: there is no such detector.
        UsageError: there are no slides, torchvision is not installed, or the detector was trained on photographs.
        IncompatibleStoreError: ``out`` holds what another detector or other settings made.

    Example:
        >>> import wsi_vmamba as wv
        >>> [slide.counts for slide in wv.detect("detector", "slides")]  # doctest: +SKIP
        [{'lymphocyte': 512, 'epithelial': 204, 'spindle': 31}]
    """
    run = DetectRun(keyword_config(DetectConfig, {**settings, "model": str(model), "slides": str(slides)}))
    rows = tuple(run.detect())
    return Detections(folder=run.out, rows=rows)


show_settings(train_detector, TrainDetectorConfig)
show_settings(detect, DetectConfig)
