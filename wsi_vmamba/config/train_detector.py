"""Settings of `train-detector`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import (
    DEFAULT_BACKBONE,
    SHIPPED_WEIGHTS,
    TARGET_MPP,
    Backbone,
    Device,
    Mpp,
    PathText,
    Seed,
)
from wsi_vmamba.config.marks import Argument, SetOnly

#: In place of a folder: pictures of generated nuclei.
PAINTED = "painted"
_Count = Annotated[int, Field(ge=1)]
_Side = Annotated[int, Field(ge=32)]


class TrainDetectorConfig(RunConfig):
    """`wsi-vmamba train-detector`: pictures with outlined objects to a detector, FPN and Mask R-CNN over a VMamba."""

    data: Annotated[PathText, Argument()] = PAINTED
    """Folder with train.json and validation.json in COCO's format and the pictures in train/ and validation/; or
    `painted`: nuclei are generated."""
    backbone: Backbone = DEFAULT_BACKBONE
    """A VMamba of the table; its four maps feed the pyramid."""
    weights: PathText = SHIPPED_WEIGHTS
    """Where the backbone starts: `auto` (shipped with it), `random`, a name of `weights list`, or a file."""
    out: PathText = "detector"
    """Folder for the model."""
    epochs: _Count = 12
    """Passes over the training pictures; after each the validation pictures are judged."""
    batch: _Count = 2
    """Pictures in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Of AdamW at its peak."""
    falls: Annotated[list[_Count], SetOnly()] = Field(default_factory=lambda: [8, 11])
    """Epochs after which the learning rate falls to a tenth."""
    warmup_steps: Annotated[int, Field(ge=0), SetOnly()] = 1000
    """Steps of linear rise; at most a tenth of all steps."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 0.05
    """Of AdamW, on matrices."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient."""
    drop_path: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Stochastic depth of the backbone: the rate of the last block; it rises evenly from 0 in the first."""
    turns: Annotated[Literal["all", "mirror", "none"], SetOnly()] = "all"
    """How pictures are varied: `all` turns and mirrors, as fits tissue; `mirror` exchanges left and right, as fits
    photographs; `none` leaves them."""
    width: Annotated[int, Field(ge=16)] = 256
    """Channels of the pyramid and of the mask head; the box head has four times as many."""
    smallest_px: Annotated[int, Field(ge=4)] = 8
    """Side of the smallest anchors; each of the five maps has twice the one before. Nuclei at 0.5 um: 8; photographs:
    32."""
    sides_px: Annotated[list[_Side] | None, SetOnly()] = None
    """Two numbers: pictures are resized until the shorter side is the first, or the longer one the second. By default
    they are taken as they are."""
    most_objects: Annotated[_Count, SetOnly()] = 300
    """Most objects that are found in one picture or window."""
    target_mpp: Mpp | None = TARGET_MPP
    """Micrometres per pixel of the pictures, at which `detect` reads slides; null for photographs."""
    checkpointing: Annotated[bool, SetOnly()] = False
    """Compute the maps inside blocks again in the backward pass: the same numbers from less memory, in a third more
    time."""
    train_pictures: Annotated[str, SetOnly()] = "train"
    """Folder in `data` of the training pictures; its JSON is `train_json`."""
    validation_pictures: Annotated[str, SetOnly()] = "validation"
    """Folder in `data` of the validation pictures."""
    train_json: Annotated[str, SetOnly()] = "train.json"
    """File in `data` with the training objects."""
    validation_json: Annotated[str, SetOnly()] = "validation.json"
    """File in `data` with the validation objects."""
    painted_pictures: Annotated[_Count, SetOnly()] = 48
    """Of `painted`: how many pictures of 256 px to learn from; a sixth as many, and two, to judge on."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    overwrite: bool = False
    """Replace an existing model."""
    resume: bool = False
    """Go on after the last finished round of an interrupted training in `out`, to the same numbers."""
    seed: Seed = 0
    """Seed of new layers, of order and turning, and of painted pictures."""

    @model_validator(mode="after")
    def _fits(self) -> TrainDetectorConfig:
        if self.sides_px is not None and (len(self.sides_px) != 2 or self.sides_px[0] > self.sides_px[1]):
            raise ValueError(
                f"sides_px is the shorter and the longer side, such as [800, 1333], got {self.sides_px}"
            )
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite exclude each other: go on with the training, or replace it"
            )
        return self
