"""Settings of `segment`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_vmamba.config.base import RunConfig, default_of
from wsi_vmamba.config.extract import PlanConfig
from wsi_vmamba.config.fields import AnyPrecision, Device, Mpp, PathText, Seed, Segmenter
from wsi_vmamba.config.marks import Argument, Option, SetOnly


class SegmentConfig(RunConfig):
    """`wsi-vmamba segment`: slides to outlines and label images, judged where the truth is known."""

    model: Annotated[PathText, Argument("MODEL")]
    """Folder or file that `train-segmenter` wrote."""
    slides: Annotated[PathText, Argument()]
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp, annotation, split."""
    out: PathText = "masks"
    """Folder for <slide_id>.geojson and <slide_id>.ome.tif; slides that have both are not segmented again."""
    split: Literal["test", "validation", "train"] | None = None
    """Of a CSV, only the slides of this split."""
    annotations: PathText | None = None
    """Folder of outlines or label masks to judge the result by; by default the column annotation of the CSV."""
    region_px: Annotated[int, Field(ge=256, le=100_000)] = default_of(PlanConfig, "region_px")
    """Largest side of a region, which is one forward pass."""
    min_area_um2: Annotated[float, Field(ge=0)] = 1000.0
    """Smaller pieces of a class become background; where a model knows no background they stay."""
    merge_um: Annotated[float, Field(gt=0), SetOnly()] = 150.0
    """Of places closer than this, only the one most likely tumour is a detection, for FROC."""
    mask: PathText | None = None
    """Your own tissue masks, as for `extract`; by default tissue is looked for."""
    segmenter: Segmenter = default_of(PlanConfig, "segmenter")
    """What finds the tissue; `all` takes the whole slide."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel, instead of what the files record."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    precision: AnyPrecision = "auto"
    """Arithmetic of the backbone; auto is bf16 where the device multiplies it natively."""
    memory_limit_gb: Annotated[
        Annotated[float, Field(gt=0)] | None, Option("--memory-limit-gb", "--memory-limit")
    ] = None
    """Most GB the process may hold; a region that needs more is refused. By default what is free."""
    overwrite: bool = False
    """Segment slides again that have their files."""
    bootstrap: Annotated[int, Field(ge=100), SetOnly()] = 2000
    """Resamples of the intervals."""
    seed: Annotated[Seed, SetOnly()] = 0
    """Seed of the bootstrap."""
