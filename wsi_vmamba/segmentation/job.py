"""A training as its configuration asks for it: data found and checked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.config.train_segmenter import TrainSegmenterConfig
from wsi_vmamba.dense.folder import decides
from wsi_vmamba.dense.rounds import fit, refuse_existing
from wsi_vmamba.dense.slides import opened
from wsi_vmamba.errors import DatasetError, SlideError, UsageError
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.pretraining.weights_file import start
from wsi_vmamba.records import split_by_patient
from wsi_vmamba.segmentation.annotated import AnnotatedSlide, find_annotated, require_known
from wsi_vmamba.segmentation.classes import OUTSIDE, ClassTable, classes_of_outlines
from wsi_vmamba.segmentation.loop import LoopSettings, SegmentationEpoch, SegmentationLoop
from wsi_vmamba.segmentation.model import Segmenter, SegmenterSpec
from wsi_vmamba.segmentation.pictures import PictureSquares, find_pictures, holds_pictures, largest_number
from wsi_vmamba.segmentation.slides import LabelledSlide, SlideSquares
from wsi_vmamba.segmentation.squares import Squares
from wsi_vmamba.segmentation.truth import Nothing, read_truth
from wsi_vmamba.training.resolve import choose_device

COMMAND = "train-segmenter"
#: What may differ when a training is resumed.
_FREE = ("data", "annotations", "out", "overwrite", "resume", "device")
#: Level-0 resolution at which label masks of slides are read, as a share of the target's: finer is of no use.
_MASK_SHARE = 2.0


@dataclass(kw_only=True)
class SegmentationJob:
    """What is trained, on what and where; a context, which closes the slides.

    Attributes:
        config: as asked for.
        model: as it begins.
        note: what its backbone's weights are.
        device: where it computes.
        training: squares to learn from.
        validation: squares that decide which round is kept.
        about: what those are of, in words.
        notes: what was left out of the annotations or repaired, one line each.
    """

    config: TrainSegmenterConfig
    model: Segmenter
    note: str
    device: str
    training: Squares
    validation: Squares
    about: str
    notes: tuple[str, ...]
    _open: ExitStack = field(repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def out(self) -> Path:
        """Folder of the model."""
        return Path(self.config.out)

    def fit(
        self,
        *,
        on_start: Callable[[int], None] = lambda _: None,
        on_epoch: Callable[[SegmentationEpoch], None] = lambda _: None,
    ) -> tuple[SegmentationEpoch, ...]:
        """Train, keep the model of the best round, and write what was done.

        Args:
            on_start: told how many rounds were done already.
            on_epoch: told of each round when its files are on disk.

        Returns:
            All rounds.

        Raises:
            TrainingError: loss or gradient is not finite, or the checkpoint is of another training.
        """
        config = self.config
        settings = LoopSettings(**{one.name: getattr(config, one.name) for one in fields(LoopSettings)})
        loop = SegmentationLoop(self.model, self.training, self.validation, settings, device=self.device)
        facts = {
            "device": self.device, "weights": self.note, "classes": list(self.model.spec.classes), "data": self.about,
        }  # fmt: skip
        return fit(
            loop, config, command=COMMAND, packed=self.model.packed, asked=self._identity(), facts=facts,
            on_start=on_start, on_epoch=on_epoch,
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return decides(self.config, free=_FREE) | {
            "start": self.note,
            "classes": list(self.model.spec.classes),
            "training data": self.training.describe(),
            "validation data": self.validation.describe(),
        }


def prepare(config: TrainSegmenterConfig) -> SegmentationJob:
    """Find slides or pictures, their truth, and the weights to begin with.

    Raises:
        UsageError: a model is there already, the backbone is no VMamba, or there are no such data.
        DatasetError: the data do not show what is to be learned.
        AnnotationError: outlines that cannot be read, or without a class.
        MaskError: a label mask that does not fit.
    """
    refuse_existing(Path(config.out), overwrite=config.overwrite, resume=config.resume)
    if config.backbone not in VARIANTS:
        raise UsageError(
            f"a segmenter takes the four maps of a VMamba, and {config.backbone} is none; take a vmamba_..."
        )
    data = Path(config.data)
    with ExitStack() as open_until:
        found = _pictures(config, data) if holds_pictures(data) else _slides(config, open_until)
        spec = SegmenterSpec(
            backbone=config.backbone,
            classes=found.classes.names,
            outside=config.outside,
            target_mpp=config.target_mpp if found.of_slides else None,
            crop_px=config.crop_px,
            channels=config.channels,
            pool_scales=tuple(config.pool_scales),
            trained_on=found.trained_on,
        )
        backbone, note = start(config.backbone, config.weights, classes=(), seed=config.seed)
        return SegmentationJob(
            config=config,
            model=Segmenter(spec, backbone, dropout=config.dropout, seed=config.seed),
            note=note,
            device=choose_device(config.device),
            training=found.training,
            validation=found.validation,
            about=found.about,
            notes=found.notes,
            _open=open_until.pop_all(),
        )


@dataclass(frozen=True, kw_only=True)
class _Data:
    classes: ClassTable
    training: Squares
    validation: Squares
    of_slides: bool
    about: str
    trained_on: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _pictures(config: TrainSegmenterConfig, folder: Path) -> _Data:
    if config.annotations is not None:
        raise UsageError("the masks of pictures lie beside them, in annotations/; leave --annotations out")
    training, validation = (find_pictures(folder, split) for split in ("train", "validation"))
    names = tuple(config.classes) or tuple(f"class {n + 1}" for n in range(largest_number(training)))
    classes = ClassTable(names=names, outside=config.outside)
    low, high = config.picture_scale
    squares = [
        PictureSquares(
            found, classes, side_px=config.crop_px, scale=(low, high), short_side_px=config.picture_side_px
        )
        for found in (training, validation)
    ]
    return _Data(
        classes=classes, training=squares[0], validation=squares[1], of_slides=False,
        about=f"{len(training)} pictures, {len(validation)} for validation",
    )  # fmt: skip


def _slides(config: TrainSegmenterConfig, open_until: ExitStack) -> _Data:
    folder = Path(config.annotations) if config.annotations else None
    slides = [one for one in find_annotated(config.data, annotations=folder) if one.record.split != "test"]
    if not slides:
        raise UsageError(f"{config.data} has test slides only; training needs others")
    require_known(slides)
    outlines = [one.annotation for one in slides if one.annotation and not _is_mask(one.annotation)]
    if not config.classes and len(outlines) < sum(one.annotation is not None for one in slides):
        raise UsageError(
            "label masks have numbers: name their classes with --class, once for each in their order"
        )
    names = tuple(config.classes) or classes_of_outlines(outlines)
    classes = ClassTable(names=names, outside=config.outside)
    training, validation = _divided(slides, config)
    labelled = {
        split: [_labelled(one, classes, config, open_until) for one in part]
        for split, part in (("training", training), ("validation", validation))
    }
    _refuse_forgotten(slides, [slide for part in labelled.values() for slide in part])
    notes = [
        f"{slide.slide_id}: {note}"
        for part in labelled.values()
        for slide in part
        for note in slide.truth.notes
    ]
    squares = {
        split: SlideSquares(part, classes, side_px=config.crop_px, what=split)
        for split, part in labelled.items()
    }
    return _Data(
        classes=classes, training=squares["training"], validation=squares["validation"], of_slides=True,
        about=f"{len(training)} slides, {len(validation)} for validation",
        trained_on=tuple(sorted(one.slide_id for one in slides)), notes=tuple(notes),
    )  # fmt: skip


def _refuse_forgotten(slides: Sequence[AnnotatedSlide], labelled: Sequence[LabelledSlide]) -> None:
    """Refuse slides whose label says that there is something on them, and nothing is outlined."""
    empty = {slide.slide_id for slide in labelled if not set(slide.places_l0) - {OUTSIDE}}
    odd = [one.slide_id for one in slides if one.record.label and one.slide_id in empty]
    if odd:
        raise DatasetError(
            f"{len(odd)} slides have another label than 0 and nothing of any class is outlined on them "
            f"({', '.join(odd[:5])}), so all of them would be taught as background; outline it, correct the label, or "
            "leave them out"
        )


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() not in (".xml", ".geojson", ".json")


def _divided(
    slides: Sequence[AnnotatedSlide], config: TrainSegmenterConfig
) -> tuple[list[AnnotatedSlide], list[AnnotatedSlide]]:
    """Training and validation slides: as their split says, else some patients are set apart."""
    if any(one.record.split == "validation" for one in slides):
        training = [one for one in slides if one.record.split != "validation"]
        return training, [one for one in slides if one.record.split == "validation"]
    # By whether anything is drawn on them, so that both parts have slides of either kind.
    records = [
        replace(one.record, label=int(one.record.label if one.record.label is not None else 1))
        for one in slides
    ]
    _, apart = split_by_patient(records, fraction=config.validation_fraction, seed=config.seed)
    names = {record.slide_id for record in apart}
    return (
        [one for one in slides if one.slide_id not in names],
        [one for one in slides if one.slide_id in names],
    )


def _labelled(
    one: AnnotatedSlide, classes: ClassTable, config: TrainSegmenterConfig, open_until: ExitStack
) -> LabelledSlide:
    """Open a slide and read what is known of it."""
    source = one.source
    slide, mpp = open_until.enter_context(opened(source, mpp_override=None))
    truth = (
        Nothing()
        if one.annotation is None
        else read_truth(
            one.annotation, slide, classes, mpp=mpp.value, finest_mpp=_MASK_SHARE * config.target_mpp
        )
    )
    reading = ExtractConfig(target_mpp=config.target_mpp, mask=config.mask)
    try:
        return LabelledSlide.of(
            slide, truth, classes, reading, mpp=mpp, slide_id=source.slide_id, made_of=one.made_of()
        )
    except UsageError as error:  # of a slide that is too coarse
        raise SlideError(source.path, str(error)) from error
