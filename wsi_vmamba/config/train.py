"""Settings of `train`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import (
    FEATURES,
    RUNS,
    Aggregator,
    AnyPrecision,
    Classifier,
    Dataset,
    Device,
    PathText,
    Seed,
    Supervision,
)
from wsi_vmamba.config.marks import Option, SetOnly
from wsi_vmamba.registry import table

#: Where slides are supervised and no aggregator is named.
DEFAULT_AGGREGATOR = "abmil"


class TrainingNumbers(RunConfig):
    """What shapes a training, whatever is trained on what."""

    supervision: Supervision = "slide"
    """Learn from labels of slides (slide), outlines of tumour (dense), or both."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the training slides."""
    patience: Annotated[int, Field(ge=1)] = 20
    """Epochs without a better validation AUC (or, at equal AUC, loss) after which to stop."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak of the schedule."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 1e-4
    """Of AdamW."""
    warmup_epochs: Annotated[int, Field(ge=0), SetOnly()] = 2
    """Epochs of linear rise before the cosine fall; at least one epoch is left to the fall."""
    hidden_dim: Annotated[int, Field(ge=1), SetOnly()] = 128
    """Width of the patch embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.25
    """Share of the embedding dropped in training."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient."""
    ema_decay: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.0
    """Share of the past in the running average of the weights that is validated and kept; it grows to this from 0.1 at
    the start. 0 keeps the weights themselves."""
    class_weights: Annotated[bool, SetOnly()] = True
    """Weigh slides so that each label counts the same."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1), SetOnly()] = 0.2
    """Share of the training patients set apart for early stopping where the data set has no validation split."""
    seed: Seed = 0
    """Seed of the split, the weights, the order and the dropout."""


class TrainConfig(TrainingNumbers):
    """`wsi-vmamba train`: feature files and labels to a slide classifier."""

    dataset: Dataset = "camelyon16"
    """Where slides and labels come from."""
    manifest: PathText | None = None
    """CSV of slides and labels (slide_id, path, label; patient, split, mpp), for `--dataset csv`; by default the
    data set's own."""
    classes: Annotated[list[str], Option("--class")] = Field(default_factory=list)
    """Name of a class, repeated in the order that the classes have; by default the names that the manifest's column
    label holds, in the order of the alphabet, or 0 and 1."""
    bag: Literal["slide", "patient"] = "slide"
    """What has a label and gets a score: each slide (slide), or all slides of a patient together (patient)."""
    features: PathText = FEATURES
    """Folder of feature files."""
    runs: PathText = RUNS
    """Folder that holds the runs."""
    name: str | None = None
    """Name of the run; by default <dataset>-<aggregator>."""
    aggregator: Aggregator | None = None
    """What makes one score of a slide's features; by default abmil, and none with `--supervision dense`."""
    classifier: Classifier = "random_forest"
    """What takes the aggregator's place where slides are rows of numbers (`--dataset csv_features`)."""
    annotations: PathText | None = None
    """Folder of outlines <slide_id>.xml or .geojson; by default the manifest's column `annotation`."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validate: one run per fold, under <name>/fold-1 and so on."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    precision: AnyPrecision = "auto"
    """Arithmetic of the forward pass; auto is bf16 on a GPU and fp32 on a CPU."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    overwrite: bool = False
    """Replace an existing run."""

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainConfig:
        if self.aggregator is not None and not table("supervision").resolve(self.supervision).slides:
            raise ValueError(
                f"supervision {self.supervision} trains no aggregator, got {self.aggregator}; leave it out, or use "
                "supervision both"
            )
        return self
