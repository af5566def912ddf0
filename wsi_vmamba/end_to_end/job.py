"""An end-to-end training as its configuration asks for it: checked before the first step, then trained and recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wsi_vmamba.config import TrainConfig
from wsi_vmamba.config.endtoend import EndToEndConfig
from wsi_vmamba.cost import COST, Stopwatch
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.end_to_end.loop import EndToEndLoop, Judged, LearningSlide, LoopSettings
from wsi_vmamba.end_to_end.model import BACKBONE, EndToEndModel, start
from wsi_vmamba.end_to_end.slides import planned_pixels, source_of
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.evaluation.fold_scores import holds_folds
from wsi_vmamba.evaluation.run_scores import train_config_of
from wsi_vmamba.inference.memory import peak_resident_bytes
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.store import remove_stale_partials
from wsi_vmamba.training import Run, load_run
from wsi_vmamba.training.checkpoint import Checkpoint
from wsi_vmamba.training.folders import RECORD
from wsi_vmamba.training.resolve import load_records
from wsi_vmamba.training.run import CHECKPOINT, EpochReport, OnEpoch, remove_run, write_splits

#: Folder inside a run where features made with its backbone are looked for.
FEATURES = "features"


@dataclass(frozen=True, kw_only=True)
class EndToEndJob:
    """What is trained, on what and where; nothing has been written yet.

    Attributes:
        config: as asked for.
        settings: as resolved.
        folder: of the new run.
        model: as it begins.
        note: what its weights are.
        began: the run it goes on from.
        trained: the configuration of that run.
        records: all slides of the data set, as they are split.
        training: slides to learn from.
        validation: slides that decide which epoch is kept.
    """

    config: EndToEndConfig
    settings: LoopSettings
    folder: Path
    model: EndToEndModel
    note: str
    began: Run
    trained: TrainConfig
    records: tuple[SlideRecord, ...]
    training: tuple[LearningSlide, ...]
    validation: tuple[LearningSlide, ...]

    @property
    def largest_px(self) -> tuple[int, int]:
        """Width and height of the largest region."""
        regions = [
            region for slide in (*self.training, *self.validation) for region in slide.pixels.plan.regions
        ]
        largest = max(regions, key=lambda region: region.width_px * region.height_px)
        return largest.width_px, largest.height_px

    def fit(
        self,
        *,
        on_start: Callable[[Judged], None],
        on_epoch: OnEpoch,
        on_slide: Callable[[str], None] = lambda _: None,
    ) -> tuple[Judged, EpochReport]:
        """Train, and write the records of a run.

        Args:
            on_start: told how the model does before anything is trained.
            on_epoch: told of each epoch when its checkpoint is on disk.
            on_slide: told of each slide when it has been worked on.

        Returns:
            How the model did at the start, and its best epoch.

        Raises:
            TrainingError: loss or gradient is not finite, or the checkpoint is of another training.
            MemoryLimitError: a region is too large for the memory that is free.
        """
        watch, checkpoint = Stopwatch(), self._checkpoint()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            loop = EndToEndLoop(
                self.model, self.training, self.validation, self.settings, self.folder, begun_with=self._begun_with(),
                on_slide=on_slide,
            )  # fmt: skip
            at_start = loop.judge()
            on_start(at_start)
            if checkpoint is not None:
                loop.restore(checkpoint)
            write_splits(self.folder, self.records)
            while not loop.finished:
                on_epoch(loop.run_epoch())
        best = loop.best
        assert best is not None
        self._record(at_start, best, watch)
        return at_start, best

    def _begun_with(self) -> dict[str, Any]:
        """Of the run that this goes on from: its best model is that of an epoch with these losses."""
        return {"begun with": self.began.best.validation_loss}

    def _checkpoint(self) -> Checkpoint | None:
        config, path = self.config, self.folder / CHECKPOINT
        if config.resume and config.overwrite:
            raise UsageError("resume and overwrite exclude each other: go on with the run, or replace it")
        if config.overwrite:
            remove_run(self.folder)
            for name in (BACKBONE, RECORD):
                (self.folder / name).unlink(missing_ok=True)
        remove_stale_partials(self.folder)
        if not path.exists():
            return None
        if not config.resume:
            raise UsageError(
                f"{self.folder} holds a run already; go on with --resume, replace it with --overwrite, or choose "
                "another --name"
            )
        return Checkpoint.load(path)

    def _record(self, at_start: Judged, best: EpochReport, watch: Stopwatch) -> None:
        facts: dict[str, Any] = {
            "device": "cpu",
            "weights": self.note,
            "at_start": vars(at_start),
            "best": vars(best),
            "slides": len(self.training) + len(self.validation),
            "largest_region_px": list(self.largest_px),
            "peak_resident_bytes": peak_resident_bytes(),
            "resolved": self.settings.training.to_dict(),
            COST: watch.cost(device="cpu"),
            "resumed": self.config.resume,
        }
        write_run_record(self.folder, command="endtoend", config=self.config, facts=facts)
        # As a run of `train`, so that `evaluate`, `predict` and the others take it.
        shared = {name: getattr(self.config, name) for name in _SHARED}
        as_trained = self.trained.changed(
            **shared, runs=self.config.runs, name=self.folder.name, features=str(self.folder / FEATURES),
            resume=False, overwrite=False,
        )  # fmt: skip
        write_run_record(self.folder, command="train", config=as_trained, facts=facts)


#: Settings that both commands have, of which the new run has those of this one.
_SHARED = ("epochs", "patience", "learning_rate", "warmup_epochs", "weight_decay", "gradient_clip", "seed")


def prepare(config: EndToEndConfig) -> EndToEndJob:
    """Find the run, its slides and their pixels, and the weights behind their features.

    Raises:
        TrainingError: there is no such run.
        UsageError: the run is none of this kind.
        MissingDataError: features or slides are not where they were.
        IncompatibleStoreError: the weights are not those of the features.
    """
    run = Path(config.run)
    if holds_folds(run):
        raise UsageError(f"{run} is a cross-validation; name one of its runs, as {run / 'fold-1'}")
    began = load_run(run)
    if began.settings.supervision != "slide":
        raise UsageError(
            f"{run} was trained with --supervision {began.settings.supervision}; only labels of slides are learned "
            "through pixels, so train a run with --supervision slide"
        )
    trained = train_config_of(run)
    if began.model.spec.num_classes != 2 or trained.bag != "slide":
        raise UsageError(
            f"{run} tells {began.model.spec.num_classes} classes of {trained.bag}s apart; through pixels two classes "
            "of slides are learned, so train such a run"
        )
    features = Path(config.features or trained.features)
    model, note = start(began.model, config.weights)
    records = _split(load_records(trained), began)
    require_features(
        [record for record in records if record.split in ("train", "validation")], features, dataset=trained.dataset
    )  # fmt: skip
    training, validation = (_slides(records, split, model, features) for split in ("train", "validation"))
    changed = {name: getattr(config, name) for name in _SHARED}
    return EndToEndJob(
        config=config,
        settings=LoopSettings(
            training=began.settings.changed(**changed, ema_decay=0.0, precision="fp32"),
            backbone_rate=config.backbone_rate,
            layer_decay=config.layer_decay,
        ),
        folder=Path(config.runs) / (config.name or f"{run.name}-endtoend"),
        model=model,
        note=note,
        began=began,
        trained=trained,
        records=records,
        training=training,
        validation=validation,
    )


def _split(records: Sequence[SlideRecord], began: Run) -> tuple[SlideRecord, ...]:
    """The data set as the run had split it."""
    missing = [record.slide_id for record in records if record.slide_id not in began.splits]
    if missing or len(records) != len(began.splits):
        raise DatasetError(
            f"the data set is another one than {began.path} was trained on: {len(records)} slides, then "
            f"{len(began.splits)}; give its manifest back, or train again"
        )
    return tuple(replace(record, split=began.splits[record.slide_id] or None) for record in records)


def _slides(
    records: Sequence[SlideRecord], split: str, model: EndToEndModel, features: Path
) -> tuple[LearningSlide, ...]:
    found = []
    for record in records:
        if record.split == split:
            pixels = planned_pixels(record.slide_id, features)
            model.source.check_same(source_of(pixels), where=record.slide_id)
            found.append(LearningSlide(record, pixels))
    return tuple(found)
