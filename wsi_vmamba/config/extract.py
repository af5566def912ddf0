"""Settings of `extract`, and of `info`, which plans as `extract` would."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import (
    DEFAULT_BACKBONE,
    FEATURES,
    SHIPPED_WEIGHTS,
    TARGET_MPP,
    Address,
    AnyPrecision,
    Backbone,
    Device,
    Mpp,
    PathText,
    Reader,
    RegionPx,
    Seed,
    Segmenter,
    Shard,
    Share,
)
from wsi_vmamba.config.marks import Argument, Option, SetOnly
from wsi_vmamba.config.otsu import OtsuSettings
from wsi_vmamba.registry import load_attribute


class PlanConfig(RunConfig):
    """What of a slide is read, and at what resolution."""

    slides: Annotated[PathText, Argument()] = "slides"
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp."""
    reader: Reader | None = None
    """Read every slide with this reader; by default the content of the file decides."""
    scene: Annotated[int, Field(ge=0)] | None = None
    """Which picture of a file that holds several, as `info` numbers them; by default the one that is the slide."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel, instead of what the files record."""
    target_mpp: Mpp = TARGET_MPP
    """Micrometres per pixel that the backbone sees."""
    region_px: RegionPx = 10_000
    """Largest side of a region at target_mpp, or `whole`: all tissue of the slide. Each is read in one forward pass."""
    patch_px: Annotated[int, Field(ge=1, le=8192)] = 256
    """Side of the square that one stored feature stands for: a multiple of the backbone's stride."""
    min_tissue: Share = 0.1
    """Smallest share of a patch that must be tissue for the patch to be kept."""
    segmenter: Segmenter = OtsuSettings.segmenter
    """What finds the tissue."""
    segmenter_settings: OtsuSettings = OtsuSettings()
    """Numbers of the segmenter otsu."""
    mask: PathText | None = None
    """Your own tissue masks instead of the segmenter's: a GeoJSON, ASAP XML or picture, or a folder with
    <slide_id>.geojson, .xml or .png."""

    @model_validator(mode="after")
    def _plan_fits(self) -> PlanConfig:
        if self.region_px != "whole" and self.region_px < self.patch_px:
            raise ValueError(f"region_px ({self.region_px}) must be at least patch_px ({self.patch_px})")
        unused = self.mask is not None or self.segmenter != OtsuSettings.segmenter
        if unused and self.segmenter_settings != OtsuSettings():
            used = f"segmenter {self.segmenter}" if self.mask is None else "your own mask"
            raise ValueError(f"segmenter_settings are numbers of the segmenter otsu, and {used} is used")
        return self


class ExtractConfig(PlanConfig):
    """`wsi-vmamba extract`: slides to feature files."""

    ids_from_path: bool = False
    """Name slides by their folders too: a__slide for a/slide.svs. By default, and in a CSV, folders do not count."""
    out: PathText = FEATURES
    """Folder for the feature files."""
    backbone: Backbone = DEFAULT_BACKBONE
    """The network that turns pixels into features."""
    weights: PathText = SHIPPED_WEIGHTS
    """`auto` (shipped with the backbone), `random`, a name of `weights list`, or a file (.safetensors, .pth); FILE#NAME
    takes one of several state dicts in it."""
    precision: AnyPrecision = "auto"
    """Arithmetic of the forward pass; auto is bf16 where the device multiplies it natively."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one, cuda:1 is the second."""
    memory_limit_gb: Annotated[
        Annotated[float, Field(gt=0)] | None, Option("--memory-limit-gb", "--memory-limit")
    ] = None
    """Most GB the process may hold; a region that needs more is refused. By default what is free."""
    scratch: PathText | None = None
    """Keep the maps of VMambas in files in this folder, not in memory, so that regions of any size fit; by default only
    with region_px whole, or where background=skip does not fit into memory, and then in out. The features are the same,
    on a GPU up to rounding."""
    background: Literal["read", "skip"] = "read"
    """What patches without tissue are to a VMamba on the CPU: pixels like others, or nothing: states cross them
    unchanged, convolutions see zeros, and they cost neither time nor room."""
    focal_planes: Literal["one", "all"] = "one"
    """What of a slide scanned at several depths is encoded: `one` plane, which --scene names, or `all` as one volume,
    with a VMamba whose scans go through the planes too; the features of a patch are the mean over them."""
    shuffle_px: Annotated[Annotated[int, Field(ge=1)] | None, SetOnly()] = None
    """Put the pixels of blocks of this side, whole patches, at each other's places before they are encoded: a control
    that says what places are worth, see `evaluate --shuffled-features`."""
    prefetch: Annotated[int, Field(ge=1, le=8), SetOnly()] = 1
    """Regions decoded ahead of the one being encoded."""
    on_bad_tile: Literal["fail", "skip"] = "fail"
    """What a tile that does not decode means: the slide fails, or the patches it touches are left out and recorded."""
    overwrite: bool = False
    """Replace existing feature files."""
    seed: Seed = 0
    """Seed of random weights."""
    shard: Shard | None = None
    """Only every n-th slide of the sorted list, beginning with the i-th; for job arrays."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Share the slides among so many processes on this machine, each with its part of the cores."""
    scheduler: Address | None = None
    """Give the slides to a running Dask cluster: tcp://host:8786."""

    @model_validator(mode="after")
    def _one_place(self) -> ExtractConfig:
        if self.workers and self.scheduler:
            raise ValueError("give workers (started here) or scheduler (running elsewhere), not both")
        return self

    @model_validator(mode="after")
    def _shuffle_fits(self) -> ExtractConfig:
        if self.shuffle_px is None:
            return self
        if self.shuffle_px % self.patch_px:
            raise ValueError(
                f"shuffle_px must be a multiple of patch_px ({self.patch_px}), got {self.shuffle_px}"
            )
        if self.on_bad_tile == "skip":
            raise ValueError(
                "with shuffle_px, patches that damaged tiles touch are elsewhere: on_bad_tile must be fail"
            )
        return self

    @model_validator(mode="after")
    def _focal_planes_fit(self) -> ExtractConfig:
        if self.focal_planes == "all" and self.on_bad_tile == "skip":
            raise ValueError(
                "with focal_planes all, on_bad_tile must be fail: a tile is damaged in one plane only"
            )
        return self

    @model_validator(mode="after")
    def _patch_is_whole_tokens(self) -> ExtractConfig:
        stride = load_attribute("wsi_vmamba.model:stride_px")(self.backbone)
        if stride is not None and self.patch_px % stride:
            raise ValueError(
                f"patch_px must be a multiple of {stride} (the stride of {self.backbone}), got {self.patch_px}"
            )
        return self


class OwnEncoderConfig(ExtractConfig):
    """`wsi_vmamba.embed` with an encoder of one's own: the stride that counts is that encoder's."""

    @model_validator(mode="after")
    def _patch_is_whole_tokens(self) -> OwnEncoderConfig:
        return self


class InfoConfig(ExtractConfig):
    """`wsi-vmamba info`: one slide as `extract` would see it, so the keys are those of extract."""

    options_of: ClassVar[type[RunConfig]] = PlanConfig

    slides: Annotated[PathText, Argument("SLIDE")]
    """A slide file."""
