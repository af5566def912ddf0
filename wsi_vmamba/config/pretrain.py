"""Settings of `pretrain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import (
    DEFAULT_BACKBONE,
    SHIPPED_WEIGHTS,
    AnyPrecision,
    Backbone,
    Device,
    Mpp,
    PathText,
    Seed,
    Segmenter,
    Share,
    SomeObjective,
)
from wsi_vmamba.config.marks import Argument, SetOnly
from wsi_vmamba.config.otsu import OtsuSettings
from wsi_vmamba.config.views import AugmentationNumbers, ViewNumbers

Count = Annotated[int, Field(ge=1)]


class DinoSettings(RunConfig):
    """Settings of the objective `dino`."""

    prototypes: Annotated[int, Field(ge=2)] = 1024
    """Prototypes that student and teacher describe a view with."""
    hidden: Count = 512
    """Width of the head's MLP."""
    bottleneck: Count = 128
    """Length of the unit vector that is compared with the prototypes."""
    student_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the student's answers; lower is sharper."""
    first_teacher_temperature: Annotated[float, Field(gt=0)] = 0.04
    """Of the teacher's answers at the first step."""
    teacher_temperature: Annotated[float, Field(gt=0)] = 0.07
    """Of the teacher's answers after `temperature_steps`."""
    temperature_steps: Annotated[int, Field(ge=0)] = 1000
    """Steps in which the teacher's temperature rises."""
    centre_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the past in the running mean of the teacher's answers, which is taken off them."""
    freeze_steps: Annotated[int, Field(ge=0)] = 100
    """First steps in which the prototypes stay as they are."""


class BarlowTwinsSettings(RunConfig):
    """Settings of the objective `barlow_twins`."""

    hidden: Count = 512
    """Width of the head's MLP."""
    out: Annotated[int, Field(ge=2)] = 512
    """Numbers that are correlated."""
    off_diagonal: Annotated[float, Field(ge=0)] = 0.005
    """Weight of the correlations of different numbers against those of the same."""


class DistilSettings(RunConfig):
    """Settings of the objective `distil`."""

    teacher: PathText | None = None
    """A backbone of the table, or a file .onnx with an input (B, 3, H, W) normalised as for ImageNet."""
    teacher_weights: PathText = SHIPPED_WEIGHTS
    """Of a backbone: `auto` (shipped with it), `random`, or a file."""
    teacher_px: Count | None = 224
    """Side that views are brought to before the teacher sees them; null: as they are."""
    hidden: Count = 512
    """Width of the head's MLP."""
    distance: Literal["cosine", "mse"] = "cosine"
    """Between the projected features of the student and the teacher's: cosine, or squared error of the teacher's
    features standardised one by one."""


class PaintedSettings(RunConfig):
    """Settings of the painted task: naming the tissue of squares of generated tiles."""

    batch: Count = 32
    """Windows of 128 px in a step, in each process."""
    wide_every: Count = 4
    """Each so many steps, a quarter as many windows of 256 px instead, so that the scan sees longer rows."""
    tile_px: Annotated[int, Field(ge=512, le=2400, multiple_of=8)] = 512
    """Side of the tiles that windows are cut from."""
    chunks: Count = 8
    """Chunks of 48 tiles in the pool that a batch is drawn from."""
    renew_steps: Count = 8
    """Steps of the task after which the oldest chunk of the pool is replaced."""
    least_difficulty: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the tumours: how clearly they show."""
    greatest_difficulty: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Of the tumours: how little they show."""
    held_out: Annotated[int, Field(ge=0)] = 6
    """Chunks of 48 tiles that the weights are judged on in the end; the result is in their header."""


class PretrainConfig(RunConfig):
    """`wsi-vmamba pretrain`: slides without labels to weights of a backbone."""

    slides: Annotated[PathText, Argument()] = "slides"
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp."""
    objective: SomeObjective = "dino"
    """What is learned."""
    backbone: Backbone = DEFAULT_BACKBONE
    """A VMamba of the table."""
    init: PathText = SHIPPED_WEIGHTS
    """Where to start: `auto` (shipped with the backbone), `random`, or a file (FILE#NAME: one of its state dicts)."""
    out: PathText = "pretrained"
    """Folder for weights, checkpoint and log."""
    steps: Count = 10_000
    """Steps of the optimiser."""
    batch: Count = 32
    """Squares of tissue in a step, in each process; several views are cut of each."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak of the schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of linear rise before the cosine fall."""
    final_share: Annotated[float, Field(ge=0, le=1), SetOnly()] = 0.01
    """Share of the peak that the learning rate falls to."""
    weight_decay: Annotated[float, Field(ge=0), SetOnly()] = 0.05
    """Of AdamW, on matrices."""
    beta2: Annotated[float, Field(ge=0, lt=1), SetOnly()] = 0.999
    """Of AdamW: share of the past in the running mean of squared gradients."""
    gradient_clip: Annotated[float, Field(gt=0), SetOnly()] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of the past in the running average of the weights, which is what is kept (and the teacher of dino); it
    rises to 1 by a cosine. 0.996 suits long trainings; 0 keeps the weights themselves, which dino cannot."""
    init_share: Share = 0.0
    """Share of the weights it began with in those that are written: between both lie weights that do better on tissue
    that neither training has seen (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903)."""
    dino: DinoSettings = DinoSettings()
    """Settings of the objective dino."""
    barlow_twins: BarlowTwinsSettings = BarlowTwinsSettings()
    """Settings of the objective barlow_twins."""
    distil: DistilSettings = DistilSettings()
    """Settings of the objective distil."""
    measured_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the objective `measured` as a second loss beside another; 0 leaves it out."""
    painted_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the painted task as a second loss beside another objective, so that what the shipped weights know is
    not lost; 0 leaves it out."""
    painted_every: Count = 4
    """With `painted_weight`: the task is done in each so many steps."""
    painted: PaintedSettings = PaintedSettings()
    """Settings of the painted task, as the objective and beside another."""
    views: ViewNumbers = ViewNumbers()
    """How views are cut from slides."""
    augmentation: AugmentationNumbers = AugmentationNumbers()
    """How views are changed."""
    segmenter: Segmenter = OtsuSettings.segmenter
    """What finds the tissue."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel, instead of what the files record."""
    log_steps: Count = 20
    """Steps between two lines of the log."""
    checkpoint_steps: Count = 200
    """Steps between two checkpoints, from which an interrupted training goes on."""
    export_steps: Count | None = None
    """Steps between two copies weights-<step>.safetensors, for judging while the training runs; by default only the
    last weights are written."""
    on_collapse: Literal["stop", "warn"] = "stop"
    """What happens when all features become alike: stop, or go on with a warning at every line of the log."""
    precision: AnyPrecision = "auto"
    """Arithmetic of the forward pass; auto is bf16 where the device multiplies it natively."""
    checkpointing: Annotated[bool, SetOnly()] = False
    """Compute the maps inside blocks again in the backward pass: the same numbers from less memory, in a third more
    time."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    threads: Count = 1
    """Threads that cut and augment views, in each process."""
    resume: bool = False
    """Go on from the last checkpoint in the folder; without one, start."""
    overwrite: bool = False
    """Replace an existing run."""
    seed: Seed = 0
    """Seed of the head, of the views and of random weights."""

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainConfig:
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: go on with the run, or replace it")
        for task in ("painted", "measured"):
            if self.objective == task and getattr(self, f"{task}_weight"):
                raise ValueError(f"{task}_weight is for another objective; {task} is the task itself")
        if self.objective == "painted" and self.measured_weight:
            raise ValueError("measured_weight needs views of slides, and the objective painted reads none")
        if self.objective == "dino" and self.ema == 0:
            raise ValueError("ema is 0, and the teacher of dino is that average; give one such as 0.99")
        return self
