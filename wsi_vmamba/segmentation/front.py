"""Segmentation from Python: `train_segmenter`, `segment` and `load_segmenter`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.segment import SegmentConfig
from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
from wsi_vmamba.dense.rounds import best_of
from wsi_vmamba.device import resolve_device
from wsi_vmamba.durable import require_writable
from wsi_vmamba.encode import check_pixels
from wsi_vmamba.notebook import table_html
from wsi_vmamba.segmentation.job import prepare
from wsi_vmamba.segmentation.loop import SegmentationEpoch
from wsi_vmamba.segmentation.model import Segmenter, read_segmenter
from wsi_vmamba.segmentation.predict import RegionSegmenter
from wsi_vmamba.segmentation.run import SegmentedSlide, SegmentRun
from wsi_vmamba.segmentation.scores import SegmentationScores


@dataclass(frozen=True, kw_only=True)
class OpenSegmenter:
    """A segmenter that is ready: `picture` takes pixels, `segment` slides.

    Attributes:
        folder: where it lies.
        classes: names of the classes 1, 2 and so on.
        target_mpp: micrometres per pixel that it was trained at; None: pictures without a scale.
        history: the rounds of its training, of one that was just trained; else empty.
    """

    folder: Path
    classes: tuple[str, ...]
    target_mpp: float | None
    history: tuple[SegmentationEpoch, ...] = ()
    _at_work: RegionSegmenter = field(repr=False)

    @property
    def best(self) -> SegmentationEpoch:
        """The round whose model was kept, of one that was just trained."""
        return best_of(self.history)

    def picture(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The number of the class of each pixel of RGB pixels (H, W, 3) of the scale that it was trained at.

        Returns:
            uint8 (H, W); 0 is background, 1 the first of ``classes``.

        Raises:
            UsageError: no such pixels.
            MemoryLimitError: they are too many.
        """
        check_pixels(pixels)
        return self._at_work.picture(pixels)

    def segment(self, slides: str | Path, **settings: Any) -> Segmentation:
        """See `segment`."""
        return segment(self.folder, slides, **settings)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Segmented slides. Iterating gives a `SegmentedSlide` for each, failed ones included.

    Attributes:
        folder: where their files lie.
        rows: what became of each.
        scores: how well they are segmented; None where nothing is known of what is on those that are.
    """

    folder: Path
    rows: tuple[SegmentedSlide, ...]
    scores: SegmentationScores | None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SegmentedSlide]:
        return iter(self.rows)

    @property
    def ok(self) -> bool:
        """Whether every slide is segmented."""
        return not any(row.failed for row in self.rows)

    def _repr_html_(self) -> str:
        columns = ("slide", "outcome", "outlines", "note or cause")
        rows = [
            (row.slide_id, row.outcome, "" if row.pieces is None else row.pieces, row.detail)
            for row in self.rows
        ]
        return table_html(columns, rows)


def train_segmenter(data: str | Path, **settings: Any) -> OpenSegmenter:
    """Train a segmenter on outlines or label masks, as `wsi-vmamba train-segmenter` does.

    Args:
        data: a CSV of slides, a folder of slides, or one of pictures with label masks.
        settings: any setting of `TrainSegmenterConfig` by name: ``annotations=``, ``epochs=``,
            ``classes=["tumour"]``...

    Returns:
        The segmenter of the best round.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: a model is there already, the backbone is no VMamba, or there are no such data.
        DatasetError: the data do not show what is to be learned.
        AnnotationError: outlines that cannot be read, or without a class.
        TrainingError: loss or gradient is not finite.

    Example:
        >>> import wsi_vmamba as wv
        >>> segmenter = wv.train_segmenter("cohort/manifest.csv", out="segmenter")  # doctest: +SKIP
        >>> segmenter.classes, segmenter.best.mean_dice  # doctest: +SKIP
        (('tumour',), 0.97)
    """
    config = keyword_config(TrainSegmenterConfig, {**settings, "data": str(data)})
    require_writable(Path(config.out), option="out")
    with prepare(config) as job:
        history = job.fit()
    return replace(load_segmenter(config.out, device=config.device), history=history)


def load_segmenter(folder: str | Path, *, device: str = "auto") -> OpenSegmenter:
    """Load a segmenter that `train_segmenter` wrote.

    Args:
        folder: where it lies, or the file itself.
        device: where it computes.

    Raises:
        WeightsError: there is none, or it is something else or damaged.
    """
    model: Segmenter = read_segmenter(folder)
    return OpenSegmenter(
        folder=Path(folder), classes=model.spec.classes, target_mpp=model.spec.target_mpp,
        _at_work=RegionSegmenter(model, device=resolve_device(device), precision="fp32"),
    )  # fmt: skip


def segment(model: str | Path, slides: str | Path, **settings: Any) -> Segmentation:
    """Segment slides, as `wsi-vmamba segment` does; judge them where it is known what is on them.

    Args:
        model: folder or file that `train_segmenter` wrote.
        slides: a folder, one slide, or a CSV.
        settings: any setting of `SegmentConfig` by name: ``out=``, ``annotations=``, ``split="test"``...

    Returns:
        What became of each slide, with ``.scores``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        WeightsError: there is no such segmenter.
        UsageError: there are no slides, or the segmenter was trained on pictures without a scale.
        IncompatibleStoreError: ``out`` holds what another segmenter or other settings made.

    Example:
        >>> import wsi_vmamba as wv
        >>> found = wv.segment("segmenter", "cohort/manifest.csv", split="test")  # doctest: +SKIP
        >>> found.scores.mean_dice  # doctest: +SKIP
        0.81
    """
    run = SegmentRun(keyword_config(SegmentConfig, {**settings, "model": str(model), "slides": str(slides)}))
    rows = tuple(run.segment())
    return Segmentation(folder=run.out, rows=rows, scores=run.judge() if run.can_judge else None)


show_settings(train_segmenter, TrainSegmenterConfig)
show_settings(segment, SegmentConfig)
