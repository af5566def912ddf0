"""Settings of `endtoend`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import RUNS, SHIPPED_WEIGHTS, PathText, Seed
from wsi_vmamba.config.marks import Argument, SetOnly


class EndToEndConfig(RunConfig):
    """`wsi-vmamba endtoend`: a run and the pixels of its slides to weights of the backbone and a run for them."""

    run: Annotated[PathText, Argument()]
    """Folder of the run to go on from, which `train` made of labels of slides. Its features say which regions and
    patches of the slides are read, at which resolution and with which backbone."""
    weights: PathText = SHIPPED_WEIGHTS
    """Weights that the features of the run were made with: `auto` (shipped with the backbone), a name of
    `weights list`, or a file (FILE#NAME: one of its state dicts)."""
    features: PathText | None = None
    """Folder of those features; by default where they were when the run was trained."""
    runs: PathText = RUNS
    """Folder that holds the new run."""
    name: str | None = None
    """Name of the new run; by default that of the run with -endtoend behind it."""
    epochs: Annotated[int, Field(ge=1)] = 5
    """Most passes over the training slides."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without a better validation AUC (or, at equal AUC, loss) after which to stop."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Of the aggregator, at the peak."""
    backbone_rate: Annotated[float, Field(gt=0)] = 0.3
    """Share of that at which the backbone learns; its n-th block from the output by `layer_decay` to the power of n of
    this."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Factor on the learning rate per block downwards."""
    warmup_epochs: Annotated[int, Field(ge=0), SetOnly()] = 1
    """Epochs of linear rise before the cosine fall; at least one epoch is left to the fall."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 1e-4
    """Of AdamW, on matrices."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient of both."""
    overwrite: bool = False
    """Replace an existing run."""
    resume: bool = False
    """Go on after the last finished epoch, to the same bytes."""
    seed: Seed = 0
    """Seed of the order and the dropout."""
