"""A training as its configuration asks for it: data read and checked before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsi_vmamba.config.train_detector import PAINTED, TrainDetectorConfig
from wsi_vmamba.dense.folder import decides
from wsi_vmamba.dense.rounds import fit, refuse_existing
from wsi_vmamba.detection.coco import CocoSet, read_coco
from wsi_vmamba.detection.loop import DetectorEpoch, DetectorLoop, DetectorSettings
from wsi_vmamba.detection.model import Detector, DetectorSpec
from wsi_vmamba.detection.painted import write_painted
from wsi_vmamba.detection.torchvision_parts import require_torchvision
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.pretraining.weights_file import start
from wsi_vmamba.training.resolve import choose_device

COMMAND = "train-detector"
#: What may differ when a training is resumed.
_FREE = ("data", "out", "overwrite", "resume", "device", "checkpointing")
_PICTURES, _PAINTED_SIDE_PX = "painted", 256


@dataclass(frozen=True, kw_only=True)
class DetectionJob:
    """What is trained, on what and where.

    Attributes:
        config: as asked for.
        model: as it begins.
        note: what its backbone's weights are.
        device: where it computes.
        training: pictures to learn from.
        validation: pictures that decide which epoch is kept.
    """

    config: TrainDetectorConfig
    model: Detector
    note: str
    device: str
    training: CocoSet
    validation: CocoSet

    @property
    def out(self) -> Path:
        """Folder of the model."""
        return Path(self.config.out)

    def fit(
        self,
        *,
        on_start: Callable[[int], None] = lambda _: None,
        on_epoch: Callable[[DetectorEpoch], None] = lambda _: None,
    ) -> tuple[DetectorEpoch, ...]:
        """Train, keep the model of the best epoch, and write what was done.

        Args:
            on_start: told how many epochs were done already.
            on_epoch: told of each epoch when its files are on disk.

        Returns:
            All epochs.

        Raises:
            TrainingError: loss or gradient is not finite, or the checkpoint is of another training.
        """
        settings = {one.name: getattr(self.config, one.name) for one in fields(DetectorSettings)}
        settings["falls"] = tuple(self.config.falls)
        loop = DetectorLoop(
            self.model, self.training, self.validation, DetectorSettings(**settings), device=self.device
        )
        facts = {"device": self.device, "weights": self.note, "classes": list(self.training.classes)}
        return fit(
            loop, self.config, command=COMMAND, packed=self.model.packed, asked=self._identity(), facts=facts,
            on_start=on_start, on_epoch=on_epoch,
        )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return decides(self.config, free=_FREE) | {
            "start": self.note,
            "classes": list(self.training.classes),
            "training data": self.training.describe(),
            "validation data": self.validation.describe(),
        }


def prepare(config: TrainDetectorConfig) -> DetectionJob:
    """Read, or paint, the data, and build the detector to begin with.

    Raises:
        UsageError: torchvision is not installed, the backbone is no VMamba, or a model is there already.
        DatasetError: the data are not in COCO's format.
        StoreError: the folder cannot be written.
    """
    out = Path(config.out)
    if config.backbone not in VARIANTS:
        raise UsageError(
            f"a detector takes the four maps of a VMamba, and {config.backbone} is none; take a vmamba_..."
        )
    refuse_existing(out, overwrite=config.overwrite, resume=config.resume)
    require_torchvision()
    require_writable(out, option="--out")
    training, validation = _painted(config) if config.data == PAINTED else _given(config)
    spec = DetectorSpec(
        backbone=config.backbone,
        classes=training.classes,
        width=config.width,
        smallest_px=config.smallest_px,
        sides_px=None if config.sides_px is None else (config.sides_px[0], config.sides_px[1]),
        most_objects=config.most_objects,
        target_mpp=config.target_mpp,
    )
    backbone, note = start(config.backbone, config.weights, classes=(), seed=config.seed)
    return DetectionJob(
        config=config,
        model=Detector(spec, backbone, seed=config.seed),
        note=note,
        device=choose_device(config.device),
        training=training,
        validation=validation,
    )


def _painted(config: TrainDetectorConfig) -> tuple[CocoSet, CocoSet]:
    folder, count = Path(config.out) / _PICTURES, config.painted_pictures
    write_painted(
        folder, training=count, validation=2 + count // 6, side_px=_PAINTED_SIDE_PX, seed=config.seed
    )
    return read_coco(folder / "train.json", folder / "train"), read_coco(
        folder / "validation.json", folder / "validation"
    )


def _given(config: TrainDetectorConfig) -> tuple[CocoSet, CocoSet]:
    folder = Path(config.data)
    training = read_coco(folder / config.train_json, folder / config.train_pictures)
    validation = read_coco(folder / config.validation_json, folder / config.validation_pictures)
    if training.classes != validation.classes:
        raise DatasetError(
            f"{training.source} and {validation.source} must have the same categories in the same order, got "
            f"{', '.join(training.classes)} and {', '.join(validation.classes)}"
        )
    return training, validation
