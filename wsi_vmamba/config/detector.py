"""Settings of `detector` and `detect`."""

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
    Segmenter,
    Share,
)
from wsi_vmamba.config.marks import Argument, SetOnly

#: In place of a folder: pictures of generated nuclei.
PAINTED = "painted"
_Count = Annotated[int, Field(ge=1)]
_Side = Annotated[int, Field(ge=32)]


class DetectorConfig(RunConfig):
    """`wsi-vmamba detector`: pictures with outlined objects to a detector, FPN and Mask R-CNN over a VMamba."""

    data: Annotated[PathText, Argument()] = PAINTED
    """Folder with train.json and validation.json in COCO's format and the pictures in train/ and validation/; or
    `painted`: nuclei are generated."""
    backbone: Backbone = DEFAULT_BACKBONE
    """A VMamba of the table; its four maps feed the pyramid."""
    weights: PathText = SHIPPED_WEIGHTS
    """Where the backbone starts: `auto` (shipped with it), `random`, a name of `weights list`, or a file."""
    out: PathText = "detector"
    """Folder for the detector."""
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
    mpp: Mpp | None = TARGET_MPP
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
    """Replace an existing detector."""
    seed: Seed = 0
    """Seed of new layers, of order and turning, and of painted pictures."""

    @model_validator(mode="after")
    def _sides_are_two(self) -> DetectorConfig:
        if self.sides_px is not None and (len(self.sides_px) != 2 or self.sides_px[0] > self.sides_px[1]):
            raise ValueError(
                f"sides_px is the shorter and the longer side, such as [800, 1333], got {self.sides_px}"
            )
        return self


class DetectConfig(RunConfig):
    """`wsi-vmamba detect`: the objects of slides, as GeoJSON for QuPath."""

    slides: Annotated[PathText, Argument()] = "slides"
    """Folder of slides (searched recursively), one slide, or a CSV with slide_id, path and mpp."""
    detector: PathText = "detector"
    """Folder that `wsi-vmamba detector` wrote, or the file in it."""
    out: PathText = "detections"
    """Folder for <slide_id>.geojson and detections.csv."""
    least_score: Share = 0.5
    """Objects of a lower score are left out."""
    window_px: Annotated[int, Field(ge=64)] = 256
    """Side of the windows that the detector sees, in pixels of its resolution."""
    overlap_px: Annotated[int, Field(ge=0)] = 64
    """What neighbouring windows share: at least the length of the longest object."""
    segmenter: Segmenter = "otsu"
    """What finds tissue; windows without any are not looked at. `all` looks at the whole slide."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel, in place of what slides record."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    overwrite: bool = False
    """Replace the GeoJSON of slides that have one; by default those slides are left alone."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> DetectConfig:
        if self.overlap_px >= self.window_px:
            raise ValueError(
                f"overlap_px must be less than window_px, got {self.overlap_px} and {self.window_px}"
            )
        return self
