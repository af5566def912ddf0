"""Settings of `detect`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig, default_of
from wsi_vmamba.config.extract import PlanConfig
from wsi_vmamba.config.fields import Device, Mpp, PathText, Segmenter, Share
from wsi_vmamba.config.marks import Argument


class DetectConfig(RunConfig):
    """`wsi-vmamba detect`: the objects of slides, as GeoJSON for QuPath."""

    model: Annotated[PathText, Argument("MODEL")]
    """Folder or file that `train-detector` wrote."""
    slides: Annotated[PathText, Argument()]
    """A folder (searched recursively), one slide, or a CSV with the columns slide_id, path, mpp."""
    out: PathText = "detections"
    """Folder for <slide_id>.geojson and detections.csv; slides that are in both are not looked at again."""
    least_score: Share = 0.5
    """Objects of a lower score are left out."""
    window_px: Annotated[int, Field(ge=64)] = 256
    """Side of the windows that the detector sees, in pixels of its resolution."""
    overlap_px: Annotated[int, Field(ge=0)] = 64
    """What neighbouring windows share: at least the length of the longest object."""
    mask: PathText | None = None
    """Your own tissue masks, as for `extract`; by default tissue is looked for."""
    segmenter: Segmenter = default_of(PlanConfig, "segmenter")
    """What finds the tissue; `all` takes the whole slide. Windows without tissue are not looked at."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel, instead of what the files record."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Look at slides again that have their files."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> DetectConfig:
        if self.overlap_px >= self.window_px:
            raise ValueError(
                f"overlap_px must be less than window_px, got {self.overlap_px} and {self.window_px}"
            )
        return self
