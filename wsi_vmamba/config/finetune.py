"""Settings of `finetune`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import (
    DEFAULT_BACKBONE,
    SHIPPED_WEIGHTS,
    Backbone,
    Device,
    PathText,
    Seed,
    Share,
)
from wsi_vmamba.config.marks import Argument, SetOnly


class FinetuneConfig(RunConfig):
    """`wsi-vmamba finetune`: labelled tiles, or clips, to weights of a backbone."""

    tiles: Annotated[PathText, Argument()] = "tiles"
    """Folder with train/<class>/ and validation/<class>/ full of pictures of one size, or of clips."""
    backbone: Backbone = DEFAULT_BACKBONE
    """A VMamba of the table."""
    weights: PathText = SHIPPED_WEIGHTS
    """Where to start: `auto` (shipped with the backbone), `random`, a name of `weights list`, or a file (FILE#NAME: one
    of its state dicts)."""
    out: PathText = "finetuned"
    """Folder for the weights."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over the training tiles."""
    warmup_epochs: Annotated[int, Field(ge=0), SetOnly()] = 1
    """Epochs of linear rise before the cosine fall."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Tiles in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Of the new head; the n-th block below it learns at `layer_decay` to the power of n of that."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Factor on the learning rate per block downwards."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 0.05
    """Of AdamW, on matrices."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient."""
    turns: Annotated[Literal["all", "mirror", "none"], SetOnly()] = "all"
    """How tiles are varied: `all` turns and mirrors, as fits tissue; `mirror` exchanges left and right, as fits
    photographs; `none` leaves them."""
    crop_px: Annotated[Annotated[int, Field(ge=32)] | None, SetOnly()] = None
    """Train on random squares of so many pixels, resized from 8 to 100 % of a picture, and judge the middle: pictures
    of any size will do. By default tiles are taken whole."""
    clip_frames: Annotated[int, Field(ge=1, le=128)] | None = None
    """Train on clips, not on pictures, and take so many evenly spaced frames of each: files .npy or .npz of RGB frames
    (T, H, W, 3), or folders of pictures. The backbone then scans time too."""
    frames_per_token: Annotated[Annotated[int, Field(ge=1)], SetOnly()] = 1
    """Frames of a clip that the stem takes together; clip_frames is a multiple of it."""
    drop_path: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Stochastic depth: rate at which the last block is left out of a step; it rises evenly from 0 in the first."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Share of each label that is spread over all classes."""
    mixup: Annotated[float, Field(ge=0), SetOnly()] = 0.0
    """Alpha of the Beta distribution by which two pictures and their labels are blended; 0 leaves it out."""
    cutmix: Annotated[float, Field(ge=0), SetOnly()] = 0.0
    """Alpha by which a rectangle of another picture is pasted; with mixup too, each batch has one of them."""
    erase: Annotated[Share, SetOnly()] = 0.0
    """Probability that a rectangle of a picture is replaced by noise."""
    ema_decay: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Decay of the running average of the weights, which is then what is judged and kept; 0 leaves it out."""
    checkpointing: Annotated[bool, SetOnly()] = False
    """Compute the maps inside blocks again in the backward pass: the same numbers from less memory, in a third more
    time."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    overwrite: bool = False
    """Replace existing weights."""
    resume: bool = False
    """Go on after the last finished epoch of an interrupted fine-tuning in `out`, to the same numbers."""
    seed: Seed = 0
    """Seed of the new head, of order and turning."""

    @model_validator(mode="after")
    def _frames_fit(self) -> FinetuneConfig:
        if self.clip_frames is None and self.frames_per_token != 1:
            raise ValueError("frames_per_token is about clips; give clip_frames too")
        if self.clip_frames is not None and self.clip_frames % self.frames_per_token:
            raise ValueError(
                f"clip_frames ({self.clip_frames}) must be a multiple of frames_per_token ({self.frames_per_token})"
            )
        return self
