"""Detectors from Python: `train_detector`, `load_detector`, and the objects of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from wsi_vmamba.config import keyword_config, show_settings
from wsi_vmamba.config.detector import PAINTED, DetectorConfig
from wsi_vmamba.detection.coco import CocoSet, read_coco
from wsi_vmamba.detection.file import FILE, save_detector
from wsi_vmamba.detection.model import Detector, DetectorSpec
from wsi_vmamba.detection.painted import write_painted
from wsi_vmamba.detection.torchvision_parts import require_torchvision
from wsi_vmamba.detection.train import DetectorEpoch, DetectorSettings, train
from wsi_vmamba.durable import csv_text, require_writable, write_atomic
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.weights import apply_state, read_state
from wsi_vmamba.provenance import add_to_record, write_run_record
from wsi_vmamba.training.resolve import choose_device

METRICS, PICTURES = "metrics.csv", "painted"
COLUMNS = tuple(field.name for field in fields(DetectorEpoch))
_PAINTED_SIDE_PX = 256
_HEAD = "classifier.head."


@dataclass(frozen=True, kw_only=True)
class TrainedDetector:
    """A finished training.

    Attributes:
        folder: with everything that was written.
        classes: what it finds.
        history: its epochs.
    """

    folder: Path
    classes: tuple[str, ...]
    history: tuple[DetectorEpoch, ...]

    @property
    def best(self) -> DetectorEpoch:
        """The epoch whose weights were kept."""
        return next(epoch for epoch in reversed(self.history) if epoch.is_best)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A training that is about to begin, for whoever says how it goes."""

    training: CocoSet
    validation: CocoSet
    detector: Detector
    weights: str
    device: str


def train_detector(data: str | Path = PAINTED, **settings: Any) -> TrainedDetector:
    """Train FPN and Mask R-CNN over a VMamba, as `wsi-vmamba detector` does.

    Args:
        data: folder with train.json and validation.json in COCO's format, or "painted".
        settings: any setting of `DetectorConfig` by name.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: torchvision is not installed, the backbone is no VMamba, or there is a detector already.
        DatasetError: the data are not in COCO's format.
        TrainingError: loss or gradient is not finite.

    Example:
        >>> import wsi_vmamba as wv
        >>> wv.train_detector("nuclei", epochs=12).best.mask_ap50  # doctest: +SKIP
    """
    return run_training(
        begin(config := keyword_config(DetectorConfig, {**settings, "data": str(data)})), config
    )


show_settings(train_detector, DetectorConfig)


def begin(config: DetectorConfig) -> Begun:
    """Read, or paint, the data, and build the detector that a configuration asks for."""
    require_torchvision()
    out = Path(config.out)
    if (out / FILE).exists() and not config.overwrite:
        raise UsageError(
            f"{out / FILE} is there already; replace it with --overwrite, or choose another --out"
        )
    require_writable(out, option="--out")
    resolved = resolve_weights(config.backbone, config.weights)
    training, validation = _data(config, out)
    detector = Detector(
        DetectorSpec(
            backbone=config.backbone,
            classes=training.classes,
            width=config.width,
            smallest_px=config.smallest_px,
            sides_px=None if config.sides_px is None else (config.sides_px[0], config.sides_px[1]),
            most_objects=config.most_objects,
            mpp=config.mpp,
        ),
        seed=config.seed,
    )
    if resolved.path is not None:
        state = {k: v for k, v in read_state(resolved.path).items() if not k.startswith(_HEAD)}
        head = {k: v for k, v in detector.vmamba.state_dict().items() if k.startswith(_HEAD)}
        apply_state(detector.vmamba, {**state, **head}, source=str(resolved.path))
    return Begun(
        training=training,
        validation=validation,
        detector=detector,
        weights=resolved.note,
        device=choose_device(config.device),
    )


def run_training(
    begun: Begun, config: DetectorConfig, *, on_epoch: Callable[[DetectorEpoch], None] = lambda _: None
) -> TrainedDetector:
    """Train; the record of the run, the best detector and the numbers of every epoch are kept in the folder."""
    out = Path(config.out)
    # First: a training that is interrupted has left a detector, and what made it must be known.
    facts = {"device": begun.device, "classes": begun.training.classes, "weights": begun.weights}
    write_run_record(out, command="detector", config=config, facts=facts)
    record = (out / "detector.run.json").read_bytes()
    history: list[DetectorEpoch] = []

    def keep(report: DetectorEpoch, detector: Detector) -> None:
        history.append(report)
        if report.is_best:
            save_detector(detector, out / FILE)
        write_atomic(out / METRICS, csv_text(COLUMNS, (astuple(one) for one in history)))
        on_epoch(report)

    settings = DetectorSettings(
        falls=tuple(config.falls),
        **{
            field.name: getattr(config, field.name)
            for field in fields(DetectorSettings)
            if field.name != "falls"
        },
    )
    train(begun.detector, begun.training, begun.validation, settings, device=begun.device, on_epoch=keep)
    trained = TrainedDetector(folder=out, classes=begun.training.classes, history=tuple(history))
    add_to_record(out, "detector", {"best": asdict(trained.best)}, of=record)
    return trained


def _data(config: DetectorConfig, out: Path) -> tuple[CocoSet, CocoSet]:
    if config.data == PAINTED:
        folder = out / PICTURES
        count = config.painted_pictures
        write_painted(
            folder, training=count, validation=2 + count // 6, side_px=_PAINTED_SIDE_PX, seed=config.seed
        )
        return tuple(read_coco(folder / f"{split}.json", folder / split) for split in ("train", "validation"))  # type: ignore[return-value]
    folder = Path(config.data)
    training = read_coco(folder / config.train_json, folder / config.train_pictures)
    validation = read_coco(folder / config.validation_json, folder / config.validation_pictures)
    if training.classes != validation.classes:
        raise DatasetError(
            f"{training.source} and {validation.source} must have the same categories in the same order, got "
            f"{', '.join(training.classes)} and {', '.join(validation.classes)}"
        )
    return training, validation
