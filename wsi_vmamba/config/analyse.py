"""Settings of `analyse`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from wsi_vmamba.config.base import RunConfig, default_of
from wsi_vmamba.config.fields import (
    DEFAULT_BACKBONE,
    SHIPPED_WEIGHTS,
    TARGET_MPP,
    Analysis,
    Backbone,
    Device,
    Mpp,
    PathText,
    Seed,
)
from wsi_vmamba.config.marks import Argument, Option, SetOnly

#: Analysis of this package -> the settings that are of it; those that stand in none are of all. Analyses of other
#: packages take every setting.
OWN_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "erf": ("projections", "memory_limit_gb"),
    "activation": ("at", "block"),
    "directions": ("tiles", "groups", "limit", "resize", "bootstrap"),
    "scan-order": ("wavelength_px", "angles", "phases"),
}


def _as_list(value: object) -> object:
    """A pair of Python as YAML and the command line give one."""
    return list(value) if isinstance(value, tuple) else value


class AnalyseConfig(RunConfig):
    """`wsi-vmamba analyse`: what a VMamba sees, from where, and in which direction."""

    analysis: Annotated[Analysis, Argument()]
    """`erf`: how far pixels reach the feature of a token. `activation`: what the four scans of a block bring to one
    token. `directions`: features without each of the four scans, each pair, and all. `scan-order`: answers to oriented
    gratings, and to pictures that are turned."""
    pictures: Annotated[list[PathText], Argument("[PICTURE|SLIDE]...")] = Field(default_factory=list)
    """Pictures (PNG, JPEG, BMP), taken as they are, and slides, of which places of the tissue are read; by default
    tissue that is painted from the seed."""
    backbone: Backbone = DEFAULT_BACKBONE
    """Which backbone; a VMamba."""
    weights: PathText = SHIPPED_WEIGHTS
    """`auto` (shipped with the backbone), `random`, a name of `wsi-vmamba weights list`, or a checkpoint."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    seed: Annotated[Seed, Option("--seed")] = 0
    """Seed of random weights, painted tissue, places on slides, projections, folds and resamples."""
    region_px: list[Annotated[int, Field(ge=32, le=4096)]] = Field(default_factory=list)
    """Side of the square that the backbone sees; may be repeated for `erf`. By default 224 and 512 for `erf`, 256 for
    `scan-order`, 512 for the others."""
    windows: Annotated[int, Field(ge=1, le=1000)] = 4
    """Squares that are averaged over, shared evenly among pictures and slides; `activation` takes one."""
    mpp: Mpp = TARGET_MPP
    """Micrometres per pixel at which slides are read."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel of slides, instead of what their files record."""
    out: PathText | None = None
    """Folder for figures and numbers; by default `analysis/NAME`."""
    projections: Annotated[int, Field(ge=1)] = 4
    """Of `erf`: random directions of the feature whose gradients are taken, for each square; from the width of the
    feature on, each of its numbers in turn, which is exact."""
    memory_limit_gb: Annotated[
        Annotated[float, Field(gt=0)] | None, Option("--memory-limit-gb", "--memory-limit")
    ] = None
    """Of `erf`: most GB the process may hold; a region that needs more is refused. By default what is free."""
    at: Annotated[
        Annotated[list[int], Field(min_length=2, max_length=2), BeforeValidator(_as_list)] | None,
        Option("--at", metavar="X Y"),
    ] = None
    """Of `activation`: the pixel (x y) whose token it is, in level-0 pixels of the slide, or pixels of the picture; by
    default the middle of the square."""
    block: str | None = None
    """Of `activation`: which block, by its name in the model (`layers.2.blocks.3`); by default the last of the last
    but one stage."""
    tiles: PathText | None = None
    """Of `directions`: labelled tiles, laid out as for `probe`, on which a linear probe judges each version."""
    groups: PathText | None = None
    """Of `directions`: CSV with the columns file, group of the tiles; by default groups.csv among them."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Of `directions`: most tiles of each class, drawn at random."""
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Of `directions`: resize every tile so that its shorter side has so many pixels."""
    bootstrap: Annotated[int, Field(ge=100), SetOnly()] = 2000
    """Of `directions`: resamples of the intervals."""
    wavelength_px: list[Annotated[float, Field(ge=2)]] = Field(
        default_factory=lambda: [8.0, 16.0, 32.0, 64.0]
    )
    """Of `scan-order`: wavelengths of the gratings; may be repeated."""
    angles: Annotated[int, Field(ge=2, le=180), SetOnly()] = 12
    """Of `scan-order`: how many angles from 0 to below 180 degrees."""
    phases: Annotated[int, Field(ge=2, le=32), SetOnly()] = 4
    """Of `scan-order`: shifts of each grating, over which answers are averaged and whose differences are the yardstick
    of those between angles."""

    @model_validator(mode="after")
    def _belongs_to_the_analysis(self) -> AnalyseConfig:
        own = OWN_SETTINGS.get(self.analysis)
        if own is None:
            return self
        owner = {key: name for name, keys in OWN_SETTINGS.items() for key in keys}
        for key, name in owner.items():
            if key not in own and getattr(self, key) != default_of(type(self), key):
                raise ValueError(f"{key} is of `analyse {name}`, not of {self.analysis}; leave it out")
        if self.analysis != "erf" and len(self.region_px) > 1:
            raise ValueError(f"{self.analysis} takes one region_px, got {self.region_px}")
        if self.groups and not self.tiles:
            raise ValueError("groups are those of --tiles DIR, which is missing")
        if self.at is not None and len(self.pictures) != 1:
            raise ValueError("at is a pixel of one picture or slide; name exactly one")
        return self
