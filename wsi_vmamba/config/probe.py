"""Settings of `probe`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.encoder_spec import parse_encoder
from wsi_vmamba.config.fields import DEFAULT_BACKBONE, AnyPrecision, Device, Mpp, PathText, Seed
from wsi_vmamba.config.marks import Argument, Option, Placeholder, SetOnly


def _check_encoder(value: object) -> object:
    if isinstance(value, str):
        parse_encoder(value)
    return value


EncoderText = Annotated[str, BeforeValidator(_check_encoder), Placeholder("NAME[=WEIGHTS][@PX]")]


class ProbeConfig(RunConfig):
    """`wsi-vmamba probe`: labelled tiles and encoders to what a linear classifier makes of their features."""

    tiles: Annotated[PathText, Argument()] = "tiles"
    """Folder with a folder of pictures for each class."""
    encoder: Annotated[list[EncoderText], Field(min_length=1)] = Field(
        default_factory=lambda: [DEFAULT_BACKBONE]
    )
    """What is judged; may be repeated, and each is compared with the first. A backbone (`vmamba_pico`), with weights of
    your own (`vmamba_pico=my.safetensors`, `=random`), `colour_texture`, or a Python function (`mine.py:encode`);
    `@224` behind it resizes the tiles for that one."""
    groups: PathText | None = None
    """CSV with the columns file, group (patient or slide; never split) and, if known, site; by default groups.csv among
    the tiles."""
    test: PathText | None = None
    """Tiles of another site: learn on TILES, judge on these."""
    test_groups: PathText | None = None
    """The same CSV for `--test`; by default groups.csv in it."""
    images: PathText | None = None
    """Pictures with `--masks` in place of tiles: judged are the cells of a grid that one class covers."""
    masks: PathText | None = None
    """Masks of `--images`, of the same names and sizes."""
    classes: PathText | None = None
    """CSV with the columns value, class: what the values of the masks mean; others are no class."""
    cell_px: Annotated[int, Field(ge=8, le=4096)] = 64
    """Side of a cell of the pictures; backbones see the picture around it."""
    cover: Annotated[float, Field(gt=0.5, le=1)] = 0.75
    """Least share of a cell that is of one class."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most tiles of each class, drawn at random; by default all tiles, and 2000 cells of pictures."""
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Resize every tile so that its shorter side has so many pixels; by default tiles are taken as they are."""
    mpp: Mpp | None = None
    """Micrometres per pixel of the tiles, for the record."""
    out: PathText | None = None
    """Folder for results.json and predictions.csv."""
    save: PathText | None = None
    """Keep the probe of the only encoder in this file (.safetensors), for `show --probe` and `wv.load_probe`."""
    precision: AnyPrecision = "auto"
    """Arithmetic of the forward pass: bf16 and fp32 give the very numbers of `extract`; auto takes tiles through a
    VMamba in batches of float32 on a CPU, which is several times faster and differs by rounding."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    few_shot: bool = True
    """Also learn from 1, 2, 4, ... 32 tiles of each class."""
    few_shot_draws: Annotated[int, Field(ge=2, le=1000), SetOnly()] = 10
    """How often those few tiles are drawn."""
    neighbours: Annotated[int, Field(ge=1, le=1000), SetOnly()] = 20
    """Neighbours that vote in the nearest-neighbour classifier and are looked at for leakage."""
    bootstrap: Annotated[int, Field(ge=100), SetOnly()] = 2000
    """Resamples of the intervals."""
    seed: Annotated[Seed, Option("--seed")] = 0
    """Seed of random weights, of folds, draws and resamples."""

    @model_validator(mode="after")
    def _belongs_together(self) -> ProbeConfig:
        if self.test_groups and not self.test:
            raise ValueError("--test-groups are the groups of --test DIR, which is missing")
        twice = sorted({one for one in self.encoder if self.encoder.count(one) > 1})
        if twice:
            raise ValueError(f"an encoder is given twice: {', '.join(twice)}")
        pictures = (self.images, self.masks, self.classes)
        if any(pictures) and not all(pictures):
            raise ValueError("pictures need all of --images DIR, --masks DIR and --classes FILE")
        if self.images and self.test:
            raise ValueError("--test is for folders of tiles; name sites in the groups of --images instead")
        if self.images and self.resize:
            raise ValueError("--resize is for tiles; of pictures choose --cell-px, and @PX behind an encoder")
        if self.save and len(self.encoder) > 1:
            raise ValueError("--save keeps the probe of one encoder; name one --encoder")
        return self
