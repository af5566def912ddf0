"""Settings of `finetune`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import DEFAULT_BACKBONE, SHIPPED_WEIGHTS, Backbone, Device, PathText, Seed
from wsi_vmamba.config.marks import Argument, SetOnly


class FinetuneConfig(RunConfig):
    """`wsi-vmamba finetune`: labelled tiles to weights of a backbone."""

    tiles: Annotated[PathText, Argument()] = "tiles"
    """Folder with train/<class>/ and validation/<class>/ full of pictures of one size."""
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
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    overwrite: bool = False
    """Replace existing weights."""
    seed: Seed = 0
    """Seed of the new head, of order and turning."""
