"""Settings of `train-segmenter`."""

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
from wsi_vmamba.config.marks import Argument, Option, SetOnly

#: Where `train-segmenter` writes a model and `segment` looks for it.
SEGMENTER = "segmenter"
_Count = Annotated[int, Field(ge=1)]
_Scales = Annotated[list[_Count], Field(min_length=1)]
_Range = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]


class TrainSegmenterConfig(RunConfig):
    """`wsi-vmamba train-segmenter`: slides with outlines, or pictures with label masks, to a model that segments."""

    data: Annotated[PathText, Argument("CSV|FOLDER")] = "slides.csv"
    """A CSV of slides (slide_id, path, annotation, label, split), a folder of slides with `--annotations`, or a folder
    of pictures: images/<split>/ and annotations/<split>/, split being train (or training) and validation."""
    annotations: PathText | None = None
    """Folder of outlines <slide_id>.geojson or .xml, or label masks <slide_id>.png, .tif or .ome.tif; by default the
    column annotation of the CSV."""
    classes: Annotated[list[str], Option("--class")] = Field(default_factory=list)
    """Name of a class, repeated in the order of their numbers 1, 2 and so on; by default those of the outlines, in
    the order of the alphabet."""
    outside: Literal["background", "unknown"] = "background"
    """What lies outside all outlines and has the number 0 in label masks: background, which is told apart like a
    class, or unknown, which teaches nothing."""
    out: PathText = SEGMENTER
    """Folder for the model."""
    backbone: Backbone = DEFAULT_BACKBONE
    """A VMamba of the table."""
    weights: PathText = SHIPPED_WEIGHTS
    """Where the backbone starts: `auto` (shipped with it), `random`, a name of `weights list`, or a file."""
    train_backbone: bool = False
    """Train the backbone too, not the head alone."""
    backbone_rate: Annotated[float, Field(gt=0), SetOnly()] = 0.1
    """Share of the learning rate at which the last block of the backbone learns."""
    layer_decay: Annotated[float, Field(gt=0, le=1), SetOnly()] = 0.75
    """Factor on that per block downwards."""
    drop_path: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Stochastic depth of the backbone: rate at which its last block is left out of a step."""
    target_mpp: Mpp = TARGET_MPP
    """Micrometres per pixel of slides that the backbone sees."""
    crop_px: Annotated[int, Field(ge=64, multiple_of=32)] = 512
    """Side of the squares that are trained on."""
    channels: Annotated[int, Field(ge=8)] = 64
    """Width of the head."""
    pool_scales: Annotated[_Scales, SetOnly()] = Field(default_factory=lambda: [1, 2, 3, 6])
    """Cells of the pyramid pooling along each side of a square."""
    dropout: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.1
    """Share of the head's fused channels dropped in training."""
    epochs: _Count = 12
    """Rounds, after each of which the model is judged and the best is kept."""
    crops: _Count = 256
    """Squares in a round; each shows a class drawn at even chances."""
    batch: _Count = 8
    """Squares in a step."""
    validation_crops: Annotated[_Count, SetOnly()] = 96
    """Squares of validation slides that it is judged on, the same after each round; pictures are judged whole."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1), SetOnly()] = 0.2
    """Share of the patients set apart for that where the data has no validation split."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of the head, at the peak."""
    warmup_epochs: Annotated[int, Field(ge=0), SetOnly()] = 1
    """Rounds of linear rise before the cosine fall."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 0.01
    """Of AdamW, on matrices."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient."""
    dice_weight: Annotated[float, Field(ge=0), SetOnly()] = 1.0
    """Weight of the Dice loss beside the cross-entropy."""
    auxiliary_weight: Annotated[float, Field(ge=0), SetOnly()] = 0.4
    """Weight of a second, small head at stride 16 where the backbone is trained; it is not kept."""
    augment: Annotated[Literal["tissue", "photograph", "none"], SetOnly()] = "tissue"
    """How squares are varied: turned, mirrored and stained otherwise (tissue), mirrored and lit otherwise (photograph),
    or not at all."""
    picture_scale: Annotated[_Range, SetOnly()] = Field(default_factory=lambda: [0.5, 2.0])
    """Least and greatest factor by which pictures are resized before a square is cut."""
    picture_side_px: Annotated[_Count | None, SetOnly()] = None
    """Resize pictures first so that their short side has so many pixels; by default they stay as they are."""
    mask: PathText | None = None
    """Your own tissue masks, as for `extract`; by default tissue is looked for."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Replace an existing model."""
    resume: bool = False
    """Go on after the last finished round of an interrupted training in `out`, to the same numbers."""
    seed: Seed = 0
    """Seed of the new head, of squares and their order."""

    @model_validator(mode="after")
    def _fits(self) -> TrainSegmenterConfig:
        low, high = self.picture_scale
        if low > high:
            raise ValueError(f"picture_scale is the least and the greatest factor, got {low:g} and {high:g}")
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite exclude each other: go on with the training, or replace it"
            )
        return self
