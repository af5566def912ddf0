"""A training as its configuration asks for it: checked before the first epoch, then one run, or one per fold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba.bags import BagLoader
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.cost import COST, Stopwatch, total
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import UsageError
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.records import SlideRecord, classes_of
from wsi_vmamba.training.folders import RECORD, fold_folder
from wsi_vmamba.training.folds import source_of_folds, split_folds
from wsi_vmamba.training.loop import TrainResult, train
from wsi_vmamba.training.model import NUM_CLASSES
from wsi_vmamba.training.reference import save_reference
from wsi_vmamba.training.reference_slides import reference_of
from wsi_vmamba.training.resolve import choose_device, load_records, run_folder, settings_of
from wsi_vmamba.training.run import MODEL, EpochReport, OnEpoch, load_run
from wsi_vmamba.training.settings import TrainSettings
from wsi_vmamba.training.targets import PatchTargets


@dataclass(frozen=True, kw_only=True)
class Part:
    """One training of a job: the whole of it, or one fold. ``records`` are those of the data set, split for it."""

    folder: Path
    records: tuple[SlideRecord, ...]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What is trained, on what and where; nothing has been written yet.

    Attributes:
        config: as asked for.
        settings: as resolved.
        device: as resolved.
        folder: of the run, or of the cross-validation.
        records: slides that are not for testing.
        parts: trainings to do, in this order.
        folds_from: of a cross-validation, where the folds are taken from, for people.
        loader: gives their bags.
        targets: gives what is known of their patches.
    """

    config: TrainConfig
    settings: TrainSettings
    device: str
    folder: Path
    records: tuple[SlideRecord, ...]
    parts: tuple[Part, ...]
    folds_from: str | None
    loader: BagLoader
    targets: PatchTargets

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in their order, where labels are names."""
        return classes_of(self.records)

    def classes_in_words(self) -> str:
        """Each class with how many have it, so that a slip among the labels shows."""
        counts = Counter(record.label_name for record in self.records if record.label is not None)
        return ", ".join(f"{name} ({counts[name]})" for name in self.classes or ())

    def notes(self) -> list[tuple[str, tuple[str, ...]]]:
        """Read all outlines that are learned from; return (slide_id, what was repaired or left out) by tumour slide.

        Raises:
            AnnotationError: the outlines of a slide cannot be read.
        """
        if not self.settings.supervises.patches:
            return []
        return [
            (record.slide_id, self.targets.notes(record, self.loader(record)))
            for record in self.records
            if record.label == 1
        ]

    def without_outlines(self) -> list[str]:
        """Tumour slides whose patches teach nothing although patches are supervised."""
        if not self.settings.supervises.patches:
            return []
        tumors = [record for record in self.records if record.label == 1]
        return [record.slide_id for record in tumors if self.targets.find(record) is None]

    def fit(self, part: Part, *, on_epoch: OnEpoch | None = None) -> TrainResult:
        """Train one part and write its record; see `train` for what is raised and what an interruption leaves."""
        config, watch = self.config, Stopwatch()
        if self.folds_from and (config.resume or config.overwrite):
            # Being there says that all folds are of one finished training.
            (self.folder / RECORD).unlink(missing_ok=True)
        result = train(
            part.records, self.loader, self.settings, part.folder,
            load_targets=self.targets, describe_targets=self.targets.describe,
            resume=config.resume, overwrite=config.overwrite, device=self.device, on_epoch=on_epoch,
        )  # fmt: skip
        facts: dict[str, Any] = {
            "device": self.device,
            "best": vars(result.best),
            "slides": sum(record.split != "test" for record in part.records),
            "resolved": self.settings.to_dict(),
        }
        self._save_reference(part.folder, [part.folder])
        # Of this call: what an interrupted one before it took is not known any more.
        facts |= {COST: watch.cost(device=self.device), "resumed": config.resume}
        write_run_record(part.folder, command="train", config=config, facts=facts)
        return result

    def finish(self, best: Sequence[EpochReport]) -> None:
        """Of a cross-validation, write that all its folds are trained; ``best`` are their best epochs."""
        if self.folds_from:
            records = (json.loads((part.folder / RECORD).read_text()) for part in self.parts)
            facts = {
                "device": self.device,
                "validation_auc": [report.validation_auc for report in best],
                COST: total(record[COST] for record in records),
                "resumed": self.config.resume,
            }
            self._save_reference(self.folder, [part.folder for part in self.parts])
            write_run_record(self.folder, command="train", config=self.config, facts=facts)

    def _save_reference(self, folder: Path, runs: Sequence[Path]) -> None:
        """Write what new slides are compared with; the scores are those of the CPU, as `evaluate` computes them."""
        found = [load_run(run) for run in runs]
        members = [(run.model, run.splits) for run in found]
        features = Path(self.config.features)
        save_reference(folder, reference_of(self.records, members, self.loader, features))


def prepare(config: TrainConfig) -> TrainJob:
    """Find the slides, their features and outlines, and divide them into folds where these are asked for.

    Raises:
        MissingDataError: features, or outlines that are to be learned from, are missing.
        DatasetError: the data set is not as described, or cannot be divided as asked.
        UsageError: the folder of a cross-validation holds a run without folds, or there is no such device.
    """
    records = load_records(config)
    _refuse_outlines_of_many(config, records)
    known = tuple(record for record in records if record.split != "test")
    require_features(known, Path(config.features), dataset=config.dataset)
    settings = settings_of(config)
    targets = PatchTargets(Path(config.annotations) if config.annotations else None)
    if settings.supervises.patches:
        targets.require(known, every=not settings.supervises.slides)
    folder = run_folder(config)
    return TrainJob(
        config=config,
        settings=settings,
        device=choose_device(config.device),
        folder=folder,
        records=known,
        parts=_parts(config, records, folder),
        folds_from=source_of_folds(records, folds=config.folds, seed=config.seed) if config.folds else None,
        loader=BagLoader(Path(config.features)),
        targets=targets,
    )


def _refuse_outlines_of_many(config: TrainConfig, records: Sequence[SlideRecord]) -> None:
    """Refuse to learn from outlines where it is not known which class is the one without tumour.

    Raises:
        UsageError: there are several classes, or two whose order nobody gave, or bags of several slides.
    """
    if not settings_of(config).supervises.patches:
        return
    names = classes_of(records)
    if config.bag != "slide":
        raise UsageError(f"--supervision {config.supervision} learns from slides, not --bag {config.bag}")
    if names is not None and (len(names) > NUM_CLASSES or not config.classes):
        raise UsageError(
            f"--supervision {config.supervision} learns normal and tumour, and the classes here are "
            f"{', '.join(names)}; use --supervision slide, or name two with --class, first the one without tumour"
        )


def _parts(config: TrainConfig, records: Sequence[SlideRecord], folder: Path) -> tuple[Part, ...]:
    if config.folds is None:
        return (Part(folder=folder, records=tuple(records)),)
    if (folder / MODEL).exists():
        raise UsageError(f"{folder} holds a run without folds; choose another --name")
    splits = split_folds(records, folds=config.folds, seed=config.seed)
    return tuple(
        Part(folder=fold_folder(folder, number), records=tuple(split))
        for number, split in enumerate(splits, start=1)
    )
