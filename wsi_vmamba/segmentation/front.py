"""Segmentation from Python: `segtrain`, `segment` and `open_segmenter`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.segment import SegmentConfig
from wsi_vmamba.config.segtrain import SegtrainConfig
from wsi_vmamba.device import resolve_device
from wsi_vmamba.durable import require_writable
from wsi_vmamba.encode import check_pixels
from wsi_vmamba.notebook import table_html
from wsi_vmamba.segmentation.job import prepare
from wsi_vmamba.segmentation.model import Segmenter, load_segmenter
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
        mean_dice: on the validation squares, of one that was just trained; else None.
    """

    folder: Path
    classes: tuple[str, ...]
    target_mpp: float | None
    mean_dice: float | None = None
    _at_work: RegionSegmenter = field(repr=False)

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


def segtrain(data: str | Path, **settings: Any) -> OpenSegmenter:
    """Train a segmenter on outlines or label masks, as `wsi-vmamba segtrain` does.

    Args:
        data: a CSV of slides, a folder of slides, or one of pictures with label masks.
        settings: any setting of `SegtrainConfig` by name: ``annotations=``, ``classes=["tumour"]``, ``epochs=``...

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
        >>> segmenter = wv.segtrain("cohort/manifest.csv", out="segmenter")  # doctest: +SKIP
        >>> segmenter.classes  # doctest: +SKIP
        ('tumour',)
    """
    config = keyword_config(SegtrainConfig, {**settings, "data": str(data)})
    require_writable(Path(config.out), option="out")
    with prepare(config) as job:
        best = job.fit()
    return open_segmenter(config.out, device=config.device, mean_dice=best.mean_dice)


def open_segmenter(
    folder: str | Path, *, device: str = "auto", mean_dice: float | None = None
) -> OpenSegmenter:
    """Open a segmenter that `segtrain` wrote.

    Args:
        folder: where it lies, or the file itself.
        device: where it computes.
        mean_dice: what is known of it.

    Raises:
        WeightsError: there is none, or it is something else or damaged.
    """
    model: Segmenter = load_segmenter(folder)
    return OpenSegmenter(
        folder=Path(folder), classes=model.spec.classes, target_mpp=model.spec.target_mpp, mean_dice=mean_dice,
        _at_work=RegionSegmenter(model, device=resolve_device(device), precision="fp32"),
    )  # fmt: skip


def segment(model: str | Path, slides: str | Path, **settings: Any) -> Segmentation:
    """Segment slides, as `wsi-vmamba segment` does; judge them where it is known what is on them.

    Args:
        model: folder or file that `segtrain` wrote.
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


show_settings(segtrain, SegtrainConfig)
show_settings(segment, SegmentConfig)
